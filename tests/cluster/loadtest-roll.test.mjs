// `loadtest roll` over HAProxy while every node is replaced, one after the other; while a node is killed; and while the cluster
// goes from another version to this one and back. The tool judges: lost, doubled, out of order, closes, heaps.
//
// Few clients here; `make test-roll` has 5,000, and then the pace is judged, too: the machine must have nothing else to do.
// SKYWAVE_BIN_OTHER is the other version.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { apiKey, Cluster } from "./cluster.mjs";
import { kill, root, skywave, start, tail, until } from "./processes.mjs";

const CLIENTS = Number(process.env.ROLL_CLIENTS ?? 300);
const IS_JUDGED = process.env.ROLL_CLIENTS !== undefined;
// Connections that leave a node in a second: half of all are on one when the others have just been replaced.
const RATE = Number(process.env.ROLL_RATE ?? Math.max(50, Math.ceil(CLIENTS / 20)));
// Publications a second, over all channels. Each is a delivery to a tenth of the clients, and with thousands of them those
// alone could keep a small machine busy: then nothing could be said of the pace.
const PUBLICATIONS = IS_JUDGED ? 10 : 50;
const more = `
[drain]
grace = "1s"
rate = ${RATE}
deadline = "90s"
`;
const loadtest = resolve(root, process.env.LOADTEST_BIN ?? "target/debug/loadtest");
const other = process.env.SKYWAVE_BIN_OTHER && resolve(root, process.env.SKYWAVE_BIN_OTHER);
const timeout = 600_000;

async function cluster(t, name, settings = {}) {
    const cluster = await Cluster.start(name, { nodes: 3, more, ...settings });
    t.after(() => cluster.stop());
    return cluster;
}

// Clients that stay until they are told to go; resolves when all of them are in.
async function populate(t, cluster, args) {
    const file = join(cluster.directory, "report.json");
    const child = start("loadtest", cluster.directory, loadtest, [
        ...["roll", "--url", `${cluster.balancer.public.replace("http", "ws")}/ws`, "--key", apiKey, "--channel", "deep:"],
        ...cluster.nodes.flatMap((node) => ["--api", node.internal]),
        ...["--clients", CLIENTS, "--duration", `${timeout}ms`, "--threads", 1, "--json", file, ...args].map(String),
    ]);
    t.after(() => kill(child));
    const said = (words) => readFileSync(child.log, "utf8").includes(words);
    await until(() => `all clients in:\n${tail(child)}`, () => said(`all ${CLIENTS} are in`) || child.hasEnded, 60_000);
    assert.ok(!child.hasEnded, tail(child));
    return { child, file };
}

// Tells them to go, and what came of it.
async function dismiss(t, { child, file }) {
    child.process.kill("SIGTERM");
    const code = await child.ended;
    const { publications, reconnects, largest_heap, away, closes, parties, ...figures } = JSON.parse(readFileSync(file, "utf8"));
    const ms = (us) => `${Math.round(us / 1000)} ms`;
    t.diagnostic(`${publications.acknowledged} publications, ${publications.repeated} sent again, ${publications.duplicates} of them known`);
    t.diagnostic(`${reconnects} reconnects, at most ${largest_heap} in 100 ms at ${RATE} a second; closes ${JSON.stringify(closes)}`);
    t.diagnostic(`away: p50 ${ms(away.p50_us)}, p99 ${ms(away.p99_us)}, longest ${ms(away.max_us)}`);
    for (const [kind, { clients, deliveries, uncovered, returns }] of Object.entries(parties)) {
        const { received, lost, doubled } = deliveries;
        t.diagnostic(`${clients} ${kind}: ${received} received, ${lost} lost, ${doubled} doubled, ${uncovered} uncovered; ${JSON.stringify(returns)}`);
    }
    assert.equal(code, 0, tail(child));
    return { publications, parties, closes, ...figures };
}

// Each node in turn, as an orchestrator does it.
async function roll(cluster, clients, as = {}) {
    for (const node of cluster.nodes) {
        assert.equal(await cluster.terminate(node), 0, `${node.name} leaves in good order`);
        await cluster.launch(node, as);
        await cluster.untilBalanced(node);
        assert.ok(!clients.child.hasEnded, tail(clients.child));
    }
}

// Each client is moved once at least, and the pace is kept: to the letter on a machine that has nothing else to do; elsewhere
// at least not all that are on a node come back as one.
const heap = IS_JUDGED ? Math.floor((2 * RATE) / 10) : CLIENTS / 4;
const moved = (rolls) => ["--rate", PUBLICATIONS, "--min-returns", CLIENTS * rolls, "--max-reconnects", heap];

test("three nodes are replaced and no client loses anything", { timeout }, async (t) => {
    const nodes = await cluster(t, "loadtest-roll");
    const clients = await populate(t, nodes, moved(1));
    await roll(nodes, clients);
    const { closes } = await dismiss(t, clients);
    assert.deepEqual(Object.keys(closes), ["1012", "4001"], "bare clients hear 1012, the others 4001");
});

test("a node is killed: all are back on the others, and whoever holds a position loses nothing", { timeout }, async (t) => {
    const nodes = await cluster(t, "loadtest-killed");
    const [victim] = nodes.nodes;
    const clients = await populate(t, nodes, ["--closes", "none", "--min-returns", Math.floor(CLIENTS / 4), "--rate", 4 * PUBLICATIONS]);
    await until(() => "some publications", async () => (await sum(nodes.nodes, "skywave_publications_total")) >= 100);
    await kill(victim.child);
    const left = nodes.nodes.slice(1);
    await until(() => "all clients on the nodes that are left", async () => (await sum(left, "skywave_connections")) === CLIENTS, 60_000);
    const { parties, publications } = await dismiss(t, clients);
    assert.ok(publications.repeated > 0, "the back end had to turn to another node");
    assert.deepEqual([parties.json.uncovered, parties.protobuf.uncovered], [0, 0]);
});

test("a cluster is rolled from another version to this one and back", { timeout, skip: !other && "SKYWAVE_BIN_OTHER is not set" }, async (t) => {
    // What both of them know of settings.
    const common = { more: process.env.ROLL_OTHER_SETTINGS ?? more };
    const nodes = await cluster(t, "loadtest-versions", { program: other, ...common });
    const clients = await populate(t, nodes, moved(2));
    await roll(nodes, clients, { program: skywave });
    await roll(nodes, clients, { program: other, ...common });
    await dismiss(t, clients);
});

// A figure of these nodes, over all its labels and added up, as they count it themselves.
async function sum(nodes, name) {
    const of = async (node) => {
        const metrics = await (await fetch(`${node.internal}/metrics`)).text();
        const values = [...metrics.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, "gm"))];
        return values.reduce((all, [, value]) => all + Number(value), 0);
    };
    return (await Promise.all(nodes.map(of))).reduce((all, one) => all + one, 0);
}
