// A fire drill: each fault that can be made here is made, and its alert fires. The `for` of the rules is two seconds instead of
// minutes; their expressions, with all their windows, are what they are.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "../cluster/client.mjs";
import { Cluster } from "../cluster/cluster.mjs";
import { freePorts, kill, skywave, start, until, untilAnswers } from "../cluster/processes.mjs";
import { Prometheus } from "./prometheus.mjs";

const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");
// What is not made here, and why; each has its unit test in deploy/prometheus/tests.
const UNMADE = {
    SkywaveDeliveriesOftenLate: "looks back over three days",
    SkywaveHandshakesOftenFail: "looks back over three days",
    SkywaveShardLate: "shards take turns, so load alone does not make one late, and a signal stops all threads of a process at once",
    SkywaveBackplaneOverflows: "wants more publications than one machine makes beside three nodes",
    SkywaveBalancerNearlyFull: "wants as many clients as HAProxy has open files",
};

const loadtest = resolve(skywave, "../loadtest");

test("each fault fires its alert", { timeout: 900_000 }, async (t) => {
    const [hookPort] = await freePorts(1);
    let hookWorks = true;
    const hook = createServer((_, response) => {
        response.statusCode = hookWorks ? 200 : 500;
        response.end("{}");
    }).listen(hookPort, "127.0.0.1");
    t.after(() => hook.close());
    const more = `
[drain]
grace = "1s"
rate = 5
deadline = "60s"
[timeouts]
close = "30s"
[auth.tokens]
keys = [{ alg = "HS256", secret = "the key of the drill, of thirty-two bytes or more" }]
[namespaces.fast]
subscribe = "anyone"
[webhooks.rpc]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
retries = 0
[webhooks.events]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
give_up_after = "2s"
`;
    const cluster = await Cluster.start("drill", { nodes: 3, more });
    t.after(() => cluster.stop());
    const prometheus = await Prometheus.start(cluster, { patience: "2s" });
    const [paris, oslo, rome] = cluster.nodes;
    const settingsOf = (node) => join(cluster.directory, `${node.name}.toml`);
    const clients = (node, count, channel = "deep:drill") => Promise.all(Array.from({ length: count }, () => new Client(node.public, channel).connect()));
    // Waits for the alert, and says how long it took.
    const drilled = new Set();
    let already;
    t.beforeEach(async () => (already = await prometheus.firing()));
    const fires = async (name, among = t) => {
        assert.ok(!already.has(name), `${name} fired before there was a fault`);
        drilled.add(name);
        const begun = Date.now();
        await until(() => `${name} fires`, async () => (await prometheus.firing()).has(name), 90_000);
        among.diagnostic(`${name} fired after ${((Date.now() - begun) / 1000).toFixed(1)} s`);
    };
    // An end of a socket for handshakes: nothing else of a client is wanted.
    const knock = (node, path, times) =>
        Promise.all(Array.from({ length: times }, () => new Promise((resolve) => {
            const socket = new WebSocket(`${node.public.replace(/^http/, "ws")}${path}`);
            socket.on("error", resolve);
            socket.on("close", resolve);
        })));

    // A WebSocket that reads nothing.
    const deaf = async (node, path) => {
        const socket = connect(node.publicPort, "127.0.0.1");
        socket.on("error", () => {});
        socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`);
        const head = await new Promise((resolve) => socket.once("data", resolve));
        socket.pause();
        assert.match(head.toString(), /^HTTP\/1.1 101 /);
        return socket;
    };

    await t.test("nothing fires while all is well", async () => {
        await until(() => "three nodes", async () => (await prometheus.query('up{job="skywave"} == 1')).length === 3);
        await sleep(5_000); // longer than any `for` of this test
        assert.deepEqual([...(await prometheus.firing())], ["SkywaveWatchdog"]);
        drilled.add("SkywaveWatchdog");
    });

    await t.test("tokens that nobody believes", async (t) => {
        // More than one a second over five minutes.
        for (let n = 0; n < 10; n++) await knock(paris, "/raw/deep%3Aa?token=e30.e30.e30", 60);
        await fires("SkywaveTokensRefused", t);
    });

    await t.test("settings that are wrong, and that differ", async (t) => {
        const before = readFileSync(settingsOf(paris), "utf8");
        appendFileSync(settingsOf(paris), "\n[nonsense]\n");
        paris.child.process.kill("SIGHUP");
        await fires("SkywaveReloadRefused", t);
        writeFileSync(settingsOf(paris), `${before}\n[namespaces.other]\nsubscribe = "anyone"\n`);
        paris.child.process.kill("SIGHUP");
        await fires("SkywaveSettingsDiffer", t);
        writeFileSync(settingsOf(paris), before);
        paris.child.process.kill("SIGHUP");
    });

    await t.test("a back end that answers nothing of use", async (t) => {
        hookWorks = false;
        const callers = await clients(paris, 3);
        const asking = setInterval(() => callers.forEach((client) => client.say({ id: 9, rpc: { method: "x", data: 1 } })), 200);
        await fires("SkywaveWebhooksFail", t);
        clearInterval(asking);
        callers.forEach((client) => client.close());
        await fires("SkywaveWebhookEventsDead", t);
        hookWorks = true;
    });

    await t.test("clients that do not read", async (t) => {
        const sockets = await Promise.all(Array.from({ length: 20 }, () => deaf(rome, "/raw/fast%3Aslow")));
        const data = "x".repeat(60_000);
        for (let n = 0; n < 500; n++) await rome.call("publish", { channel: "fast:slow", data });
        await fires("SkywaveSlowConsumers", t);
        sockets.forEach((socket) => socket.destroy());
    });

    await t.test("clients that vanish", async (t) => {
        const many = await clients(oslo, 150);
        many.forEach((client) => client.vanish());
        await fires("SkywaveMassDisconnect", t);
    });

    await t.test("a storm, and one node that has it all", async (t) => {
        const idle = start("idle", cluster.directory, loadtest, ["idle", "--url", `ws://127.0.0.1:${oslo.publicPort}/ws`, "--clients", "1800", "--duration", "300s"]);
        const churn = start("churn", cluster.directory, loadtest, ["churn", "--url", `ws://127.0.0.1:${oslo.publicPort}/ws`, "--clients", "5000"]);
        await fires("SkywaveReconnectStorm", t);
        await fires("SkywaveImbalance", t);
        await Promise.all([kill(idle), kill(churn)]);
    });

    await t.test("clients that were away for longer than history reaches", async (t) => {
        const late = await clients(paris, 30);
        for (const client of late) {
            client.position = { epoch: "of-another-life", offset: 7 };
            client.interrupt();
        }
        await fires("SkywaveRecoveriesFail", t);
        late.forEach((client) => client.close());
    });

    await t.test("as many connections as are allowed, nearly", async (t) => {
        const before = readFileSync(settingsOf(oslo), "utf8");
        writeFileSync(settingsOf(oslo), before.replace("[limits]\n", "[limits]\nconnections = 100\n"));
        oslo.child.process.kill("SIGHUP");
        const many = await clients(oslo, 90);
        await fires("SkywaveNodeNearlyFull", t);
        many.forEach((client) => client.close());
        writeFileSync(settingsOf(oslo), before);
        oslo.child.process.kill("SIGHUP");
    });

    await t.test("subscribers that Redis cuts off, again and again", async (t) => {
        for (let n = 0; n < 6; n++) {
            await until(() => "all are live", async () => (await prometheus.query("min(skywave_backplane_state) == 2")).length === 1);
            await cluster.redis("CLIENT", "KILL", "TYPE", "pubsub");
            await sleep(1_500); // until a scrape has seen it
        }
        await fires("SkywaveBackplaneFlaps", t);
    });

    await t.test("a Redis that takes its time", async (t) => {
        const [client] = await clients(oslo, 1);
        t.after(() => client.close());
        const publishing = setInterval(() => paris.call("publish", { channel: "deep:drill", data: 1 }).catch(() => {}), 20);
        const pausing = setInterval(() => cluster.redis("CLIENT", "PAUSE", "1500", "ALL").catch(() => {}), 3_000);
        await fires("SkywaveDeliveriesLate", t).finally(() => [publishing, pausing].forEach(clearInterval));
    });

    await t.test("what another version wrote", async (t) => {
        const [client] = await clients(paris, 1);
        t.after(() => client.close());
        await paris.call("publish", { channel: "deep:drill", data: 1 });
        const channels = (await cluster.redis("PUBSUB", "CHANNELS", "*drill*")).split("\n");
        for (const channel of channels) await cluster.redis("PUBLISH", channel, "of a version to come");
        for (const channel of channels) await cluster.redis("SPUBLISH", channel, "of a version to come");
        await fires("SkywavePublicationsUnreadable", t);
    });

    await t.test("a node that lets nobody in", async (t) => {
        const before = readFileSync(settingsOf(rome), "utf8");
        writeFileSync(settingsOf(rome), before.replace(/^overload_memory = 0$/m, "overload_memory = 0.000001"));
        rome.child.process.kill("SIGHUP");
        const knocking = setInterval(() => knock(rome, "/ws", 5), 200);
        await fires("SkywaveNodeOverloaded", t);
        await fires("SkywaveHandshakesFail", t);
        clearInterval(knocking);
        writeFileSync(settingsOf(rome), before);
        rome.child.process.kill("SIGHUP");
    });

    await t.test("a drain that does not end", async (t) => {
        await until(() => "it lets somebody in again", async () => (await fetch(`${rome.internal}/readyz`)).ok);
        const socket = await deaf(rome, "/ws"); // it does not answer the close either
        t.after(() => socket.destroy());
        rome.child.process.kill("SIGTERM");
        await fires("SkywaveDrainStuck", t);
    });

    await t.test("a node that is gone", async (t) => {
        await kill(rome.child);
        await fires("SkywaveNodeMissing", t);
        await fires("SkywaveTargetDown", t);
    });

    await t.test("a node of another cluster among ours, with a certificate that nobody renewed", async (t) => {
        const [publicPort, internalPort] = await freePorts(2);
        const [certificate, key] = ["lost.crt", "lost.key"].map((name) => join(cluster.directory, name));
        execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost", "-days", "5", "-keyout", key, "-out", certificate], { stdio: "ignore" });
        const file = join(cluster.directory, "lost.toml");
        writeFileSync(file, `
[node]
name = "gw-lost"
[public]
listen = ["127.0.0.1:${publicPort}"]
tls = { certificate = "${certificate}", key = "${key}" }
[internal]
listen = ["127.0.0.1:${internalPort}"]
[backplane]
url = "redis://127.0.0.1:${cluster.redisPort}"
prefix = "lost"
[auth]
anonymous = true
`);
        const lost = start("lost", cluster.directory, skywave, ["serve", "--config", file]);
        await untilAnswers(lost, `http://127.0.0.1:${internalPort}/readyz`);
        prometheus.scrape([...cluster.nodes.map((node) => node.internal), `http://127.0.0.1:${internalPort}`]);
        await fires("SkywaveNodesDisagree", t);
        await fires("SkywaveCertificateEnds", t);
        await fires("SkywaveBalancerMissesNodes", t);
        prometheus.scrape(cluster.nodes.map((node) => node.internal));
        await kill(lost);
    });

    await t.test("a Redis that does not answer", async (t) => {
        const redis = cluster.children.find(({ name }) => name === "redis");
        redis.process.kill("SIGSTOP");
        const publishing = setInterval(() => paris.call("publish", { channel: "deep:drill", data: 1 }).catch(() => {}), 50);
        await fires("SkywaveBackplaneDown", t);
        await fires("SkywaveBackplaneDownEverywhere", t);
        await fires("SkywavePublishOutcomeUnknown", t);
        clearInterval(publishing);
        redis.process.kill("SIGCONT");
        await until(() => "Redis is reached again", async () => (await prometheus.query("min(skywave_backplane_state) == 2")).length === 1, 60_000);
    });

    await t.test("a Redis that has lost everything", async (t) => {
        const [client] = await clients(paris, 1);
        t.after(() => client.close());
        for (let n = 0; n < 5; n++) await paris.call("publish", { channel: "deep:drill", data: n });
        await cluster.redis("FLUSHALL");
        await cluster.redis("CLIENT", "KILL", "TYPE", "pubsub");
        await fires("SkywavePublicationsLost", t);
    });

    await t.test("a Redis without room", async (t) => {
        const used = Number(/used_memory:(\d+)/.exec(await cluster.redis("INFO", "memory"))[1]);
        await cluster.redis("CONFIG", "SET", "maxmemory", String(Math.ceil(used * 1.1)));
        await fires("SkywaveRedisNearlyFull", t);
        await cluster.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
        const publishing = setInterval(() => paris.call("publish", { channel: `deep:${Math.random()}`, data: "x".repeat(10_000) }).catch(() => {}), 10);
        await fires("SkywaveRedisEvicts", t).finally(() => clearInterval(publishing));
    });

    await t.test("nobody is left", async (t) => {
        await Promise.all([paris, oslo].map((node) => kill(node.child)));
        await fires("SkywaveDown", t);
    });

    await t.test("no alert was forgotten", async () => {
        const alerts = (await prometheus.rules()).filter(({ type }) => type === "alerting").map(({ name }) => name);
        assert.deepEqual(alerts.sort(), [...drilled, ...Object.keys(UNMADE)].sort());
    });
});
