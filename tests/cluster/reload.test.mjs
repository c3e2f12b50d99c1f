// 1,000 clients hear everything while the settings of their node change ten times, and are wrong once: nobody is disconnected.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { freePorts, kill, root, skywave, start, tail, until, untilAnswers } from "./processes.mjs";

const directory = join(root, "tests/artefacts/reload");
const loadtest = resolve(skywave, "../loadtest");
const clients = 1_000;

test("settings change under 1,000 clients", { timeout: 120_000 }, async (t) => {
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    const [publicPort, internalPort] = await freePorts(2);
    const internal = `http://127.0.0.1:${internalPort}`;
    const file = join(directory, "skywave.toml");
    const write = (change) => writeFileSync(file, settings(publicPort, internalPort) + change);
    write("");
    const node = start("node", directory, skywave, ["serve", "--config", file]);
    t.after(() => kill(node));
    await untilAnswers(node, `${internal}/readyz`);
    const metrics = async () => (await fetch(`${internal}/metrics`)).text();
    const figure = async (name, label = "") => {
        const lines = (await metrics()).split("\n").filter((line) => line.startsWith(`${name}{`) && line.includes(label));
        return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
    };
    const reloaded = (outcome) => figure("skywave_config_reloads_total", `outcome="${outcome}"`);

    const args = ["fanout", "--url", `ws://127.0.0.1:${publicPort}/ws`, "--clients", clients, "--rate", 10, "--duration", "15s"];
    const load = start("load", directory, loadtest, args.map(String));
    t.after(() => kill(load));
    await until(() => `${clients} clients:\n${tail(load)}`, async () => (await figure("skywave_connections")) >= clients, 60_000);

    for (let change = 1; change <= 10; change++) {
        write(`channels_per_connection = ${100 + change}\n[namespaces.new-${change}]\nsubscribe = "anyone"\n` + others(change));
        node.process.kill("SIGHUP");
        await until(() => `reload ${change}:\n${tail(node)}`, async () => (await reloaded("applied")) === change);
        const delivered = await figure("skywave_deliveries_total");
        await until(() => "more publications", async () => (await figure("skywave_deliveries_total")) >= delivered + clients);
        if (change !== 5) continue;
        write("channels_per_conection = 1\n");
        node.process.kill("SIGHUP");
        await until(() => `a refused reload:\n${tail(node)}`, async () => (await reloaded("refused")) === 1);
    }
    assert.ok(!load.hasEnded, `the load outlasts the changes:\n${tail(load)}`);
    assert.ok((await figure("skywave_connections")) >= clients, "all are still there");
    const opened = await figure("skywave_connections_opened_total");

    assert.equal(await load.ended, 0, `nothing was lost:\n${tail(load)}`);
    assert.equal(await figure("skywave_connections_opened_total"), opened, "nobody had to come back");
    const closed = (await metrics()).split("\n").filter((line) => line.startsWith("skywave_connections_closed_total{"));
    const wrong = closed.filter((line) => !/reason="(normal|going_away|none|abnormal)"/.test(line) && !line.endsWith(" 0"));
    assert.deepEqual(wrong, [], "the node closed nobody");
    assert.match(readFileSync(node.log, "utf8"), /skywave\.toml:\d+:1: limits\.channels_per_conection/);
});

// Of the rest that can change, something each time: keys, and a back end that is told and is never there.
const others = (change) => `
[auth.tokens]
keys = [{ alg = "HS256", secret = "${String(change).padStart(32, "0")}" }]
[api]
keys = [{ name = "a", key = "${String(change).padStart(16, "0")}", scopes = ["read"] }]
[webhooks.events]
url = "http://127.0.0.1:9/${change}"
[webhooks.publish]
url = "http://127.0.0.1:9/${change}"
namespaces = ["new-${change}"]
`;

const settings = (publicPort, internalPort) => `
[node]
shards = 2
[public]
listen = ["127.0.0.1:${publicPort}"]
[internal]
listen = ["127.0.0.1:${internalPort}"]
[auth]
anonymous = true
[namespaces.default]
history = { size = 100, ttl = "10m" }
subscribe = "anyone"
publish = "anyone"
# All come at once, from one address. What follows belongs to it.
[limits]
handshakes_per_second = 0
`;
