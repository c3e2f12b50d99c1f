// docs/TUTORIAL.md, followed to the letter: every command in it is run, in its order, and what it says one sees is looked for.
// Only the binary and the images are there already. Started by deploy/test/tutorial.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { root, skywave, start, tail, until, untilAnswers } from "../../tests/cluster/processes.mjs";

const { chromium } = createRequire(new URL("../../tests/clients/package.json", import.meta.url))("playwright-core");
const execute = promisify(execFile);
const directory = mkdtempSync(join(tmpdir(), "skywave-tutorial-"));
const said = { "cargo run --release --bin skywave": skywave };
const steps = commands(readFileSync(join(root, "docs/TUTORIAL.md"), "utf8"));
const children = [];
let browser;

before(async () => {
    browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-background-networking", "--disable-quic"] });
});
after(async () => {
    await browser.close();
    for (const child of children) child.process.kill(); // those that a failed test left
    rmSync(directory, { recursive: true });
});

test("one node", { timeout: 60_000 }, async () => {
    const node = startNext("cargo run --release --bin skywave");
    await untilAnswers(node, "http://localhost:8000/demo/");
    const pages = [await open("http://localhost:8000/demo/"), await open("http://localhost:8000/demo/")];
    await Promise.all(pages.map((page) => page.waitForSelector("#status[data-state=open]")));

    take("export PATH=$PWD/target/release:$PATH"); // `run` has it
    const published = await runNext(`skywave publish chat:lobby '{"text":"hello"}'`);
    const { epoch } = JSON.parse(published.output).position;
    const shown = (lines) => lines.join("\n").replaceAll("k3x9Qa_2", epoch);
    assert.equal(published.output, shown(published.shown));
    const tailing = startNext("skywave tail chat:lobby --since k3x9Qa_2:0", { "k3x9Qa_2": epoch });
    await until(() => `what is shown:\n${tail(tailing)}`, () => readFileSync(tailing.log, "utf8").split("\n").length > 2);
    assert.equal(readFileSync(tailing.log, "utf8").trim(), shown(tailing.shown));
    await interrupt(tailing);
    assert.equal(await interrupt(node), 0, tail(node));
    await Promise.all(pages.map((page) => page.close()));
});

test("a cluster", { timeout: 900_000 }, async (t) => {
    const cluster = startNext("docker-compose up --build", { "--build": "--no-build" });
    await until(() => `the chat:\n${tail(cluster)}`, () => fetch("http://localhost:8000/demo/chat/").then(({ ok }) => ok, () => false), 120_000);
    const windows = [];
    for (let i = 0; i < 6; i++) windows.push(await open("http://localhost:8000/demo/chat/"));
    const where = await Promise.all(windows.map(nodeOf));
    assert.ok(new Set(where).size > 1, `not all windows are on one node: ${where}`);
    assert.equal((await fetch("http://localhost:3000/api/health")).status, 200);
    assert.deepEqual(await firing(), ["SkywaveWatchdog"]);

    const published = await runNext(`docker-compose exec gateway /skywave publish chat:lobby '{"text":"to all nodes"}'`);
    assert.match(published.output, /^\{"position":/);
    await everybodyHas(windows, ["to all nodes"]);
    const nodes = await runNext("docker-compose exec gateway /skywave nodes");
    const words = (line) => line.trim().split(/ {2,}/);
    const [head, ...rows] = nodes.output.split("\n");
    assert.deepEqual(words(head), words(nodes.shown[0]));
    assert.deepEqual(rows.map((row) => words(row).length), [5, 5, 5], nodes.output);

    await t.test("a node leaves", async () => {
        const listed = await runNext("docker ps --filter label=com.docker.compose.service=gateway --format '{{.ID}} {{.Names}}'");
        const [id] = listed.output.split("\n")[0].split(" ");
        assert.equal(listed.output.split("\n").length, 3);
        const leaving = runNext("docker stop ONE-OF-THEM", { "ONE-OF-THEM": id });
        await talk(windows, "while it leaves");
        await leaving;
        await untilTold(windows, "open");
        await talk(windows, "after it left");
        const log = await run(`docker logs ${id} 2>&1`);
        for (const words of [/ draining/, / stopped .*cut=0/]) assert.match(log, words);
        await run(`docker start ${id}`);
        await untilHealthy();
        const rolling = runNext("deploy/compose/roll.sh");
        await talk(windows, "while all are replaced");
        await rolling;
        await talk(windows, "when all are new");
    });

    await t.test("a node dies", async () => {
        const node = await nodeOf(windows[0]);
        const id = (await run("docker ps --filter label=com.docker.compose.service=gateway --format '{{.ID}}'")).split("\n").find((id) => node.startsWith(id.slice(0, 12)));
        assert.ok(id, `${node} is a container`);
        await runNext("docker kill ONE-OF-THEM", { "ONE-OF-THEM": id });
        await talk(windows.slice(1), "while it is dead");
        await until(() => "elsewhere", async () => (await nodeOf(windows[0])) !== node);
        await everybodyHas(windows, ["while it is dead, says 0"]);
        await until(() => "SkywaveNodeMissing", async () => (await firing()).includes("SkywaveNodeMissing"), 240_000);
        const [alert] = await query("ALERTS{alertname='SkywaveNodeMissing'}");
        const rule = await json("http://localhost:9090/api/v1/alerts").then(({ data }) => data.alerts.find(({ labels }) => labels.alertname === alert.metric.alertname));
        readFileSync(join(root, rule.annotations.runbook));
        await run(`docker start ${id}`);
        await until(() => "the alert goes", async () => !(await firing()).includes("SkywaveNodeMissing"), 60_000);
    });

    await t.test("Redis dies", async () => {
        const closes = countCloses(windows);
        await runNext("docker-compose stop redis");
        await untilTold(windows, "degraded");
        // Not by `docker-compose exec`: that of 1.29 loses the words of a command that ends quickly.
        await assert.rejects(run("docker exec $(docker-compose ps -q gateway | head -n 1) /skywave publish chat:lobby '1'"), ({ stdout }) => {
            assert.match(stdout, /503 Service Unavailable/);
            return true;
        });
        await until(() => "SkywaveBackplaneDownEverywhere", async () => (await firing()).includes("SkywaveBackplaneDownEverywhere"), 60_000);
        await runNext("docker-compose start redis");
        await untilTold(windows, "open");
        await talk(windows, "when it is back");
        assert.equal(closes.count, 0, "nobody was disconnected");
    });

    take("docker-compose down"); // the last words of that part
    await run("docker-compose down -v");
    assert.equal(await cluster.ended, 0, tail(cluster));
    assert.deepEqual(steps, [], "every command of the tutorial was run");
});

// Of each block for the console: what is typed, and what is shown. And the commands in the text that begin like one.
function commands(text) {
    const found = [];
    for (const [, block, inline] of text.matchAll(/^```console\n(.*?)^```$|`(docker-compose down)`/gms)) {
        if (inline) found.push({ command: inline, shown: [] });
        for (const line of block?.trim().split("\n") ?? []) {
            if (line.startsWith("$ ")) found.push({ command: line.slice(2).replace(/\s{2,}# .*/, ""), shown: [] });
            else found.at(-1).shown.push(line);
        }
    }
    return found;
}

// The next command must be this one: who changes the tutorial changes this file.
function take(command) {
    const step = steps.shift();
    assert.equal(step?.command, command, "the next command of the tutorial");
    return step;
}

// As it is typed here: with the words that the tutorial cannot know.
function typed(command, words = {}) {
    return Object.entries({ ...words, ...said }).reduce((line, [from, to]) => line.replace(from, to), command);
}

// In a terminal, as whoever reads the tutorial has one: without it `docker-compose exec` of 1.29 loses words.
async function run(line) {
    const env = { ...process.env, PATH: `${dirname(skywave)}:${process.env.PATH}` };
    const terminal = ["--quiet", "--return", "--echo", "never", "--command", typed(line), "/dev/null"];
    const { stdout } = await execute("script", terminal, { cwd: root, env, maxBuffer: 1 << 26 });
    return stdout.replace(/[\r\0]|\x1b\[[0-9;?]*[a-zA-Z]/g, "").trim();
}

async function runNext(command, words) {
    const { shown } = take(command);
    return { shown, output: await run(typed(command, words)) };
}

// One that goes on.
function startNext(command, words) {
    const { shown } = take(command);
    const [name] = command.split(" ");
    const env = { PATH: `${dirname(skywave)}:${process.env.PATH}` };
    const child = Object.assign(start(name, directory, "bash", ["-c", `exec ${typed(command, words)}`], env), { shown });
    children.push(child);
    return child;
}

async function interrupt(child) {
    child.process.kill("SIGINT");
    return child.ended;
}

async function open(url) {
    const page = await browser.newPage();
    await page.goto(url);
    await page.waitForSelector("#status[data-state=open]");
    return page;
}

const nodeOf = (page) => page.textContent("#node");
const messages = (page) => page.$$eval("#log [data-offset]", (all) => all.map((one) => one.textContent));
const json = async (url) => (await fetch(url)).json();
const query = async (expression) => (await json(`http://localhost:9090/api/v1/query?query=${encodeURIComponent(expression)}`)).data.result;
const firing = async () => (await query("ALERTS{alertstate='firing'}")).map(({ metric }) => metric.alertname).sort();

// Somebody writes, and everybody reads it, once.
async function talk(windows, text) {
    const said = windows.map((_, i) => `${text}, says ${i}`);
    for (const [i, page] of windows.entries()) {
        await page.fill("#text", said[i]);
        await page.press("#text", "Enter");
    }
    await everybodyHas(windows, said);
}

async function everybodyHas(windows, texts) {
    for (const page of windows) {
        const times = async () => (await messages(page).then((all) => texts.map((text) => all.filter((one) => one.includes(text)).length)));
        await until(() => `${texts[0]} in all windows`, async () => (await times()).every((count) => count >= 1), 40_000);
        assert.deepEqual(await times(), texts.map(() => 1));
    }
}

const untilTold = (windows, state) => Promise.all(windows.map((page) => page.waitForSelector(`#status[data-state=${state}]`, { timeout: 40_000 })));

const untilHealthy = () => until(() => "healthy", async () => {
    const states = await run("docker ps --filter label=com.docker.compose.service=gateway --format '{{.Status}}'");
    return states.split("\n").length === 3 && !/unhealthy|starting/.test(states);
}, 60_000);

function countCloses(windows) {
    const closes = { count: 0 };
    for (const page of windows) {
        page.on("websocket", () => closes.count++); // a new one, for the old one is gone
    }
    return closes;
}
