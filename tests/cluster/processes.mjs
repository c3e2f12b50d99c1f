// Child processes of the tests: each is recorded, logs to a file, and dies with us, by its own pid.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, openSync, closeSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../", import.meta.url));

// The binary under test.
export const skywave = resolve(root, process.env.SKYWAVE_BIN ?? "target/debug/skywave");

const children = new Set();
const killAll = () => children.forEach((child) => child.process.kill("SIGKILL"));
process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => process.exit(1)); // which runs the line above
}

// Starts a program, with these settings of a node in its environment; `directory` gets its output as NAME.log.
export function start(name, directory, program, args, settings = {}) {
    mkdirSync(directory, { recursive: true });
    const log = join(directory, `${name}.log`);
    const output = openSync(log, "w");
    const child = { name, log, hasEnded: false };
    child.process = spawn(program, args, { stdio: ["ignore", output, output], env: { ...cleanEnvironment(), ...settings } });
    closeSync(output);
    child.ended = new Promise((resolve) => {
        const end = (why) => {
            child.hasEnded = true;
            children.delete(child);
            resolve(why);
        };
        child.process.once("error", end); // no such program
        child.process.once("exit", (code, signal) => end(signal ?? code));
    });
    children.add(child);
    return child;
}

// Runs a command with our own output, and tells its exit code. Like the others it ends with us.
export async function run(program, args, env) {
    const command = spawn(program, args, { stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...env } });
    const end = () => command.kill(); // gently: it may have children of its own
    process.on("exit", end);
    const [code] = await once(command, "exit");
    process.off("exit", end);
    return code ?? 1;
}

export async function kill(child) {
    child.process.kill("SIGKILL");
    await child.ended;
}

// A setting in the caller's environment would change the node under test, and end its development mode.
function cleanEnvironment() {
    return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SKYWAVE__")));
}

// All at once, so that no two are the same.
export async function freePorts(count) {
    const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
    await Promise.all(servers.map((server) => new Promise((resolve) => server.once("listening", resolve))));
    const ports = servers.map((server) => server.address().port);
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    return ports;
}

export async function until(what, condition, withinMs = 20_000) {
    const deadline = Date.now() + withinMs;
    while (!(await condition())) {
        if (Date.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what()}`);
        await sleep(20);
    }
}

// Waits for a 200; a child that ended instead says why.
export async function untilAnswers(child, url) {
    const answers = async () => {
        if (child.hasEnded) throw new Error(`${child.name} ended with ${await child.ended}:\n${tail(child)}`);
        return fetch(url).then((response) => response.ok, () => false);
    };
    await until(() => `200 from ${url} of ${child.name}:\n${tail(child)}`, answers);
}

export const tail = (child) => readFileSync(child.log, "utf8").split("\n").slice(-20).join("\n");
