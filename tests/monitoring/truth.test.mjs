// Every expression of the dashboards and rules, against real nodes under load: none is empty, none is NaN, none asks for what
// nobody tells; and what nodes tell is asked for somewhere.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "../cluster/client.mjs";
import { Cluster } from "../cluster/cluster.mjs";
import { freePorts, root, until } from "../cluster/processes.mjs";
import { Prometheus } from "./prometheus.mjs";

const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");
const dashboardsDirectory = join(root, "deploy/grafana/dashboards");
const dashboards = readdirSync(dashboardsDirectory).map((name) => ({ name, ...JSON.parse(readFileSync(join(dashboardsDirectory, name), "utf8")) }));
const panels = dashboards.flatMap(({ name, panels }) => panels.filter(({ type }) => type !== "row").map((panel) => ({ name, ...panel })));

// What nobody needs to look at, and why.
const UNSEEN = {
    process_virtual_memory_bytes: "address space is no memory",
    process_virtual_memory_max_bytes: "the same",
};

let cluster;
let prometheus;

before(async () => {
    const [hookPort] = await freePorts(1);
    const hook = createServer((_, response) => response.end("{}")).listen(hookPort, "127.0.0.1");
    hook.unref();
    cluster = await Cluster.start("truth", {
        nodes: 2,
        more: `
[timeouts]
ping_interval = "1s"
[webhooks.connect]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
[webhooks.events]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
`,
    });
    prometheus = await Prometheus.start(cluster);
});

process.on("exit", () => cluster?.children?.forEach((child) => child.process.kill("SIGKILL")));

const own = (name) => /^(skywave|process)_/.test(name);
const fill = (expression) =>
    expression.replaceAll("$__rate_interval", "10s").replaceAll("$__interval", "5s").replaceAll("$node", ".+");
// The selectors in an expression of ours: all of our metrics and rules begin so.
const selectors = (expression) => [...expression.matchAll(/\b(?:skywave_|process_|redis_|job:|node:|up\b)[\w:]*(?:\{[^}]*\})?/g)].map(([found]) => found);

test("all expressions are true", { timeout: 240_000 }, async (t) => {
    t.after(() => cluster.stop());
    const clients = await Promise.all(Array.from({ length: 20 }, () => new Client(cluster.balancer.public, "deep:truth").connect()));
    let isOver = false;
    const load = (async () => {
        for (let n = 0; !isOver; n++) {
            await cluster.nodes[n % 2].call("publish", { channel: "deep:truth", data: n });
            // Somebody comes and goes all the time.
            const guest = new WebSocket(`${cluster.balancer.public.replace(/^http/, "ws")}/raw/deep%3Atruth`);
            guest.on("open", () => guest.close(1000));
            guest.on("error", () => {});
            if (n % 20 === 10) clients[n % clients.length].interrupt();
            await sleep(50);
            if (n % 60 !== 59) continue;
            // Nodes probe only what is silent, and catch up only after they were cut off.
            await cluster.redis("CLIENT", "KILL", "TYPE", "pubsub");
            await sleep(4_000);
        }
    })();

    await t.test("once they have been running for a while", async () => {
        const missing = async () => {
            const wrong = [];
            for (const { name, title, targets } of panels) {
                for (const { expr, legendFormat } of targets) {
                    const complaint = await judge(fill(expr), legendFormat);
                    if (complaint) wrong.push(`${name}, "${title}": ${complaint}: ${expr}`);
                }
            }
            return wrong;
        };
        let wrong;
        await until(() => wrong.join("\n"), async () => (wrong = await missing()).length === 0, 60_000);
    });

    await t.test("rules are evaluated, recordings have values, and each alert asks for what is there", async () => {
        const rules = await prometheus.rules();
        assert.deepEqual(rules.filter(({ health }) => health !== "ok").map(({ name, lastError }) => `${name}: ${lastError}`), []);
        const empty = [];
        for (const { name, query, type } of rules) {
            if (type === "recording" && (await judge(name))) empty.push(`${name} has no value`);
            for (const selector of selectors(query)) {
                if ((await prometheus.query(selector)).length === 0) empty.push(`${name}: nothing is ${selector}`);
            }
        }
        assert.deepEqual(empty, []);
    });

    await t.test("no alert fires on a cluster that is well", async () => {
        const firing = await prometheus.firing();
        firing.delete("SkywaveDeliveriesLate"); // what a cut costs on a machine that is busy with other things
        assert.deepEqual([...firing], ["SkywaveWatchdog"]);
    });

    await t.test("variables have values, and none is used that is not declared", async () => {
        for (const { name, panels, templating } of dashboards) {
            for (const { name: variable, query } of templating.list) {
                const [, match, label] = /^label_values\((.+), (\w+)\)$/.exec(query.query);
                assert.deepEqual(await prometheus.labelValues(label, match), ["gw-1", "gw-2"], `${name}: $${variable}`);
            }
            const declared = new Set([...templating.list.map((one) => one.name), "__rate_interval", "__interval"]);
            const used = JSON.stringify(panels).matchAll(/\$(\w+)/g);
            assert.deepEqual([...used].map(([, one]) => one).filter((one) => !declared.has(one)), [], name);
        }
    });

    await t.test("everything that nodes tell is on a dashboard or in a rule", async () => {
        const said = await (await fetch(`${cluster.nodes[0].internal}/metrics`)).text();
        const told = [...said.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name).filter(own);
        const rules = await prometheus.rules();
        const asked = [...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)), ...rules.map(({ query }) => query)].join("\n");
        const unseen = told.filter((name) => !new RegExp(`\\b${name}(_bucket|_count|_sum)?\\b`).test(asked));
        assert.deepEqual(unseen.sort(), Object.keys(UNSEEN).sort());
    });

    isOver = true;
    await load;
    clients.forEach((client) => client.close());
});

// What is wrong with an expression; nothing if it has values, now and over time, and all labels that its legend names.
async function judge(expression, legend = "") {
    const series = await prometheus.query(expression);
    if (series.length === 0) return "empty";
    if (series.every(({ value }) => !Number.isFinite(Number(value[1])))) return "not a number";
    const label = [...legend.matchAll(/\{\{(\w+)\}\}/g)].map(([, name]) => name).find((name) => series.some(({ metric }) => !metric[name]));
    if (label) return `no label ${label}`;
    if ((await prometheus.range(expression, 10)).length === 0) return "empty over time";
    return undefined;
}

test("every panel has a unit, a description, and a place of its own", () => {
    for (const { name, panels, uid } of dashboards) {
        assert.match(uid, /^skywave-/);
        assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length, `${name}: each panel has an id`);
        const taken = new Set();
        for (const { type, title, description, fieldConfig, targets, gridPos } of panels) {
            for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
                for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
                    assert.ok(x < 24 && !taken.has(`${x} ${y}`), `${name}: "${title}" lies on another one`);
                    taken.add(`${x} ${y}`);
                }
            }
            if (type === "row") continue;
            assert.ok(description?.endsWith("."), `${name}: "${title}" says what one reads from it`);
            assert.ok(fieldConfig.defaults.unit, `${name}: "${title}" has a unit`);
            assert.ok(targets.length > 0 && targets.every(({ datasource }) => datasource.uid === "prometheus"), title);
        }
    }
});
