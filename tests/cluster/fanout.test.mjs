// 10,000 publications, half through each node, reach 50 clients on both nodes: none lost, none doubled, one order; though
// Redis drops the nodes' subscriptions again and again meanwhile.
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertAllGotAll, payload } from "./checks.mjs";
import { Client } from "./client.mjs";
import { Cluster } from "./cluster.mjs";
import { until } from "./processes.mjs";

const channel = "deep:fanout";
const perNode = 5_000;
const atOnce = 8; // calls of the API under way, for each node
const killsAfter = [1_500, 3_500, 5_500, 7_500, 9_000]; // publications

test("a publication on any node reaches every subscriber on every node", { timeout: 240_000 }, async (t) => {
    const cluster = await Cluster.start("fanout");
    t.after(() => cluster.stop());
    const clients = await Promise.all(Array.from({ length: 50 }, () => new Client(cluster.balancer.public, channel).connect()));
    t.after(() => clients.forEach((client) => client.close()));
    const spread = cluster.nodes.map(({ name }) => clients.filter((client) => client.node === name).length);
    t.diagnostic(`clients of each node: ${spread}`);
    assert.ok(spread.every((count) => count >= 20), "the balancer spreads clients");

    const sent = [];
    const kills = [];
    const pending = [...killsAfter];
    const publish = async (node, data) => {
        const { position, duplicate } = await node.call("publish", { channel, data });
        assert.ok(position.offset >= 1 && !duplicate);
        sent.push(data);
        if (sent.length >= pending[0]) {
            pending.shift();
            kills.push(Number(await cluster.redis("CLIENT", "KILL", "TYPE", "pubsub")));
        }
    };
    const began = Date.now();
    await Promise.all(cluster.nodes.map((node) => inLanes(atOnce, perNode, (number) => publish(node, payload(node.name, number)))));
    const acknowledged = Date.now();

    const most = () => Math.min(...clients.map(({ publications }) => publications.length));
    await until(() => `${sent.length} publications with each client; the last one has ${most()}`, () => most() >= sent.length, 60_000).catch(
        (error) => t.diagnostic(error.message), // the checks below say more
    );
    t.diagnostic(`acknowledged after ${acknowledged - began} ms, all received ${Date.now() - acknowledged} ms later`);
    t.diagnostic(`subscriptions that Redis dropped: ${kills}`);
    assert.equal(sent.length, 2 * perNode);
    assert.equal(kills.length, killsAfter.length);
    assert.ok(kills.every((count) => count >= 1), "each kill met at least one subscription");
    assertAllGotAll(clients, sent);
    assert.ok(clients.every(({ reconnects }) => reconnects === 0), "no client noticed");
});

// Runs work(0) to work(count - 1), `lanes` at a time.
async function inLanes(lanes, count, work) {
    let next = 0;
    const lane = async () => {
        while (next < count) await work(next++);
    };
    await Promise.all(Array.from({ length: lanes }, lane));
}
