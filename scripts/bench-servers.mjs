// What a benchmark drives, each as a process of its own on core 0, and the generator that drives it, on core 1.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePorts, kill, root, start, tail, until, untilAnswers } from "../tests/cluster/processes.mjs";

const [SERVER_CORE, GENERATOR_CORE] = ["0", "1"];
const skywave = process.env.BENCH_SKYWAVE ?? join(root, "target/release/skywave");
const loadtest = process.env.BENCH_LOADTEST ?? join(root, "target/release/loadtest");

const directory = mkdtempSync(join(tmpdir(), "skywave-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));

// A program on one core, with as many open files as it may have. `exec`: it has the pid that we end.
function pinned(name, core, program, args) {
    return start(name, directory, "bash", ["-c", 'ulimit -n "$(ulimit -Hn)"; exec taskset -c "$0" "$@"', core, program, ...args]);
}

// A certificate that no authority signed; the generator is told to trust it.
function certificate() {
    const [config, key, pem] = ["openssl.cnf", "key.pem", "certificate.pem"].map((name) => join(directory, name));
    writeFileSync(config, `[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n[name]\nCN = localhost\n`
        + `[extensions]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = IP:127.0.0.1\n`);
    execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-config", config, "-keyout", key, "-out", pem], { stdio: "ignore" });
    return { key, pem };
}

// Limits that no load of ours reaches, so that what it costs to count is in every figure.
const HIGH = {
    handshakes_per_second: 1_000_000, new_channels_per_minute: 1_000_000_000, commands_per_second: 1_000_000_000,
    publications_per_second: 1_000_000_000, bytes_per_second: "100GiB",
};

// A node: one shard, for it may use one core. `live:` is a namespace without history, `chat:` one with it.
export const node = ({ tls = false, settings = "", limits = {} } = {}) => async () => {
    const [publicPort, internalPort] = await freePorts(2);
    const { key, pem } = tls ? certificate() : {};
    const config = join(directory, "node.toml");
    writeFileSync(config, `
[public]
listen = ["127.0.0.1:${publicPort}"]
${tls ? `tls = { certificate = "${pem}", key = "${key}" }` : ""}
[internal]
listen = ["127.0.0.1:${internalPort}"]
[auth]
anonymous = true
[debug]
echo = true
[limits]
${Object.entries({ ...HIGH, ...limits }).map(([name, limit]) => `${name} = ${JSON.stringify(limit)}`).join("\n")}
[namespaces.live]
subscribe = "anyone"
publish = "anyone"
[namespaces.chat]
history = { size = 100, ttl = "10m" }
subscribe = "anyone"
publish = "anyone"
${settings}
`);
    const child = pinned("node", SERVER_CORE, skywave, ["serve", "--config", config]);
    await orEnded(child, untilAnswers(child, `http://127.0.0.1:${internalPort}/readyz`));
    const url = `${tls ? "wss" : "ws"}://127.0.0.1:${publicPort}`;
    const published = async () => {
        const metrics = await fetch(`http://127.0.0.1:${internalPort}/metrics`).then((response) => response.text());
        const counted = [...metrics.matchAll(/^skywave_publications_total(?:\{.*\})? (\S+)$/gm)];
        return counted.reduce((sum, [, count]) => sum + Number(count), 0);
    };
    return { child, url, access: tls ? ["--ca", pem] : [], published };
};

// One of `loadtest floor`, with its flags.
export const floor = (...work) => () => told("floor", loadtest, ["floor", ...work, "--listen", "127.0.0.1:0"]);

// µWebSockets behind a few lines of JavaScript; `make bench` installs it.
const peer = join(root, "tests/bench/uws.mjs");
export const uws = () => () => told("uws", process.execPath, [peer, "0"]);

// Why it cannot run here, or undefined.
export function uwsIsMissing() {
    const { status, stderr } = spawnSync(process.execPath, [peer, "check"], { encoding: "utf8" });
    return status === 0 ? undefined : stderr.trim();
}

// A server that says where it listens.
async function told(name, program, args) {
    const child = pinned(name, SERVER_CORE, program, args);
    const address = () => /^listening on (\S+)$/m.exec(readFileSync(child.log, "utf8"))?.[1];
    await orEnded(child, until(() => `${name} listens:\n${tail(child)}`, () => address() ?? child.hasEnded));
    if (child.hasEnded) throw new Error(`${name} ended with ${await child.ended}:\n${tail(child)}`);
    return { child, url: `ws://${address()}`, access: [] };
}

// A server that does not get ready is ended, too: it would keep the core on which the next one is measured.
async function orEnded(child, ready) {
    try {
        await ready;
    } catch (error) {
        await kill(child);
        throw error;
    }
}

// Starts a server, drives it with all the scenarios at the same time, ends it; returns their reports in order. Every scenario ends
// within `seconds`, or is ended. One that is `later` begins when all clients of the first are in. `beside` is told the server's
// pid, and how to wait for that moment, and may watch the server meanwhile.
export async function drive(serve, scenarios, seconds, beside = () => {}) {
    const server = await serve();
    const generators = [];
    const isIn = () => /^all \d+ are in$/m.test(readFileSync(generators[0].log, "utf8"));
    const allIn = async () => {
        await until(() => `the first clients are in:\n${tail(generators[0])}`, () => isIn() || generators[0].hasEnded, seconds * 1000);
        if (!isIn()) throw new Error(`the first clients did not get in:\n${tail(generators[0])}`);
    };
    try {
        const driving = scenarios.map((scenario, place) => generate(server, scenario, place, seconds, generators, allIn));
        const [, ...reports] = await Promise.all([beside(server.child.process.pid, allIn), ...driving]);
        // Of a node: how many publications it has counted, of all scenarios together. It had none before.
        const node_published = await server.published?.();
        return reports.map((report) => ({ ...report, node_published }));
    } finally {
        await kill(server.child);
    }
}

async function generate({ child: server, url, access }, { later = false, path = "/ws", load }, place, seconds, generators, allIn) {
    if (later) await allIn();
    const file = join(directory, `report-${place}.json`);
    rmSync(file, { force: true });
    const [scenario, ...flags] = load;
    const where = ["--url", url + path, ...access, "--server-pid", String(server.process.pid)];
    const args = [...where, "--threads", "1", "--json", file, ...flags];
    const [program, ...before] = scenario === "flood" ? [process.execPath, join(root, "scripts/flood.mjs")] : [loadtest, scenario];
    const generator = generators[place] = pinned(`generator-${place}`, GENERATOR_CORE, program, [...before, ...args]);
    const code = await Promise.race([generator.ended, server.ended.then(() => "server"), sleep(seconds * 1000, "late", { ref: false })]);
    if (code === 0) return JSON.parse(readFileSync(file, "utf8"));
    if (!generator.hasEnded) await kill(generator);
    const why =
        code === "late" ? `is not done after ${seconds} s`
        : code === "server" ? `has no server any more:\n${tail(server)}`
        : `ended with ${code}`;
    throw new Error(`${scenario} ${args.join(" ")} ${why}:\n${tail(generator)}`);
}
