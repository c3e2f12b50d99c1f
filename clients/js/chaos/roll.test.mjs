// Three nodes behind HAProxy are restarted one after another, and one is killed, under clients that subscribe and some that
// publish: nothing is lost or doubled, and they do not come back in heaps. Some have no WebSocket, and read the fallback's stream.
//
// CHAOS_CLIENTS: how many, 30 by default. Needs dist/ (`node clients/js/build.mjs`) and redis-server and haproxy on the machine.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Cluster } from "../../../tests/cluster/cluster.mjs";
import { kill, until } from "../../../tests/cluster/processes.mjs";
import { Client } from "../dist/index.js";

const { WebSocket } = createRequire(import.meta.url)("ws");
const CLIENTS = Number(process.env.CHAOS_CLIENTS ?? 30);
const PUBLISHERS = Math.max(3, Math.round(CLIENTS / 10));
const EVERY_MS = 200; // a publication of each publisher
const WINDOW_MS = 100;
const MOST_IN_WINDOW = 0.1;
const channel = "deep:chaos";
const STREAMS = Math.round(CLIENTS / 8); // the last ones: whoever publishes without a token wants a WebSocket

// A node's clients leave within some seconds, however many there are.
const more = `
[drain]
grace = "500ms"
rate = ${Math.max(10, Math.ceil(CLIENTS / 3 / 4))}
deadline = "30s"
`;

// As behind a proxy that lets none through.
class NoWebSocket {
    constructor() {
        setTimeout(() => this.onclose?.({ code: 1006, reason: "" }));
    }
    close() {}
}

class Watcher {
    constructor(url, name, options) {
        Object.assign(this, { name, seen: [], gaps: [], reconnects: [], ends: [], refusals: [], transports: new Set() });
        this.client = new Client(url, options);
        this.client.on("connected", ({ transport }) => this.transports.add(transport));
        this.subscription = this.client.subscribe(channel);
        this.subscription.on("publication", ({ offset, data }) => this.seen.push({ offset, data }));
        this.subscription.on("gap", (gap) => this.gaps.push(gap));
        this.client.on("connecting", () => this.ends.length > 0 && this.reconnects.push(performance.now()));
        this.client.on("disconnected", ({ code }) => this.ends.push(code));
        this.client.connect();
    }

    // Until told to stop; what is written is what was acknowledged.
    async publish(isOver) {
        const written = [];
        const acknowledged = [];
        for (let number = 0; !isOver(); number++) {
            const data = `${this.name} ${number}`;
            written.push(data);
            acknowledged.push(this.subscription.publish(data).catch((error) => this.refusals.push(`${data}: ${error.code}`)));
            await sleep(EVERY_MS);
        }
        await Promise.all(acknowledged);
        return written;
    }
}

// The most within a window, of all moments.
function largestHeap(moments) {
    const sorted = [...moments].sort((a, b) => a - b);
    let [most, first] = [0, 0];
    sorted.forEach((at, i) => {
        while (sorted[first] <= at - WINDOW_MS) first += 1;
        most = Math.max(most, i - first + 1);
    });
    return most;
}

test(`${CLIENTS} clients over nodes that are restarted and killed`, { timeout: 300_000 }, async (t) => {
    const cluster = await Cluster.start("chaos-js", { nodes: 3, more });
    t.after(() => cluster.stop());
    const socket = { WebSocket, fallback: false };
    const stream = { WebSocket: NoWebSocket, retryWebSocketMs: 3_600_000 };
    const options = (i) => (i < CLIENTS - STREAMS ? socket : stream);
    const watchers = Array.from({ length: CLIENTS }, (_, i) => new Watcher(cluster.balancer.public, `client ${i}`, options(i)));
    t.after(() => watchers.forEach(({ client }) => client.close()));
    await Promise.all(watchers.map(({ subscription }) => subscription.ready()));
    for (const watcher of watchers) {
        watcher.reconnects.length = watcher.ends.length = 0; // a stream comes after two attempts with a WebSocket
    }

    let isOver = false;
    t.after(() => (isOver = true));
    const publishing = watchers.slice(0, PUBLISHERS).map((watcher) => watcher.publish(() => isOver));
    for (const [i, node] of cluster.nodes.entries()) {
        const before = watchers.flatMap(({ ends }) => ends).length;
        // The last one is not asked.
        if (i < cluster.nodes.length - 1) assert.equal(await cluster.terminate(node), 0, `${node.name} leaves in good order`);
        else await kill(node.child);
        await until(() => "somebody notices", () => watchers.flatMap(({ ends }) => ends).length > before);
        await until(() => "all are back", () => watchers.every(({ client }) => client.state === "connected"), 60_000);
        await cluster.launch(node);
        await cluster.untilBalanced(node);
    }
    isOver = true;
    const written = (await Promise.all(publishing)).flat();
    const behind = () => watchers.filter(({ seen }) => seen.length < written.length);
    await until(() => "all have all", () => behind().length === 0).catch((error) => t.diagnostic(error.message)); // the checks say more

    const reconnects = watchers.flatMap((watcher) => watcher.reconnects);
    const heap = largestHeap(reconnects);
    const codes = watchers.flatMap(({ ends }) => ends);
    const told = [...new Set(codes)].map((code) => `${codes.filter((one) => one === code).length} by ${code}`).join(", ");
    const share = heap / reconnects.length;
    t.diagnostic(`${written.length} publications to each of ${CLIENTS} clients, ${codes.length} ends (${told})`);
    t.diagnostic(`${reconnects.length} reconnects, at most ${heap} (${(100 * share).toFixed(1)} %) in ${WINDOW_MS} ms`);

    assert.deepEqual(watchers.flatMap(({ refusals }) => refusals), [], "all were acknowledged");
    for (const { name, seen, gaps } of watchers) {
        const data = seen.map((one) => one.data);
        const lost = written.filter((one) => !data.includes(one));
        const doubled = data.filter((one, at) => data.indexOf(one) !== at);
        assert.deepEqual({ name, lost, doubled, gaps }, { name, lost: [], doubled: [], gaps: [] });
        assert.ok(seen.every(({ offset }, at) => at === 0 || offset > seen[at - 1].offset), `${name}: in order`);
    }
    assert.equal(watchers.filter(({ transports }) => transports.has("sse")).length, STREAMS);
    const all = (watcher) => watcher.seen.map(({ data }) => data);
    for (const watcher of watchers) assert.deepEqual(all(watcher), all(watchers[0]), "one order for all");
    assert.ok(reconnects.length >= CLIENTS, "each node had its share of clients, and they had to move");
    // Of few clients a tenth is only some, who may well meet by chance.
    assert.ok(share <= (CLIENTS >= 100 ? MOST_IN_WINDOW : 3 * MOST_IN_WINDOW), `${heap} of ${reconnects.length} reconnects within ${WINDOW_MS} ms`);
});
