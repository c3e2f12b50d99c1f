// Every expression of the dashboards and rules, against real nodes under load: none is empty, none is NaN, none asks for what
// nobody tells; and what nodes tell is asked for somewhere.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { before, test } from "node:test";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "../cluster/client.mjs";
import { Cluster } from "../cluster/cluster.mjs";
import { freePorts, until } from "../cluster/processes.mjs";
import { dashboards, panels } from "./dashboards.mjs";
import { Prometheus } from "./prometheus.mjs";

const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");

// What nobody needs to look at, and why.
const UNSEEN = {
    process_virtual_memory_bytes: "address space is no memory",
    process_virtual_memory_max_bytes: "the same",
};

// What there is only on other clusters, and who sees it there.
const ELSEWHERE = {
    skywave_certificate_expiry_timestamp_seconds: "nodes with TLS: tests/tls and the drill",
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
const isElsewhere = (expression) => Object.keys(ELSEWHERE).some((name) => expression.includes(name));
// The selectors in an expression of ours: all of our metrics and rules begin so.
const selectors = (expression) => [...expression.matchAll(/\b(?:skywave_|process_|redis_|haproxy_|job:|node:|up\b)[\w:]*(?:\{[^}]*\})?/g)].map(([found]) => found);

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
                    if (isElsewhere(expr)) continue;
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
            for (const selector of selectors(query).filter((one) => !isElsewhere(one))) {
                if ((await prometheus.query(selector)).length === 0) empty.push(`${name}: nothing is ${selector}`);
            }
        }
        assert.deepEqual(empty, []);
    });

    await t.test("no alert fires on a cluster that is well", async () => {
        const firing = await prometheus.firing();
        // The load cuts nodes off, again and again; on a machine that is busy with other things that makes deliveries late, too.
        for (const expected of ["SkywaveBackplaneFlaps", "SkywaveDeliveriesLate"]) firing.delete(expected);
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

    await t.test("promtool has nothing to say of what nodes tell", async () => {
        for (const node of cluster.nodes) {
            const told = await (await fetch(`${node.internal}/metrics`)).text();
            const promtool = execFile("promtool", ["check", "metrics"]);
            promtool.stdin.end(told);
            const complaints = (await Promise.all([promtool.stdout, promtool.stderr].map(text))).join("");
            assert.equal(complaints, "");
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
