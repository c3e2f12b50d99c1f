// Every node is replaced, one after the other, under clients of each kind: nothing is lost or doubled, everybody is told, and
// nobody comes in heaps. Then a node dies without a word.
//
// These are clients that others have written (ws, protobufjs), and few; loadtest-roll.test.mjs has many, and judges the pace.
// SKYWAVE_BIN_OTHER is another version of the node: the cluster is rolled from that to this one and back.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { assertAllGotAll, payload } from "./checks.mjs";
import { BareClient, BinaryClient, Client } from "./client.mjs";
import { Cluster } from "./cluster.mjs";
import { kill, root, skywave, until } from "./processes.mjs";

const CLIENTS = 150;
const channel = "deep:roll";
// Connections that leave a node in a second: all of them within some seconds.
const RATE = Math.max(20, Math.ceil(CLIENTS / 3 / 10));
const more = `
[drain]
grace = "2s"
rate = ${RATE}
deadline = "60s"
`;
const other = process.env.SKYWAVE_BIN_OTHER && resolve(root, process.env.SKYWAVE_BIN_OTHER);

// A back end that publishes until it is told to stop, to whichever node answers, under a key so that nothing is there twice.
class BackEnd {
    #isOver = false;
    sent = [];

    constructor(nodes, t) {
        t.after(() => this.stop()); // also if the test fails before
        this.done = this.#run(nodes);
    }

    async #run(nodes) {
        for (let number = 0; !this.#isOver; number++) {
            const data = payload("back end", number);
            for (let at = number; ; at++) {
                const answer = await nodes[at % nodes.length].call("publish", { channel, data, key: `${number}` }).catch(() => undefined);
                if (answer) break;
                if (this.#isOver) return;
                await sleep(10);
            }
            this.sent.push(data);
            await sleep(20);
        }
    }

    async stop() {
        this.#isOver = true;
        await this.done;
        return this.sent;
    }
}

async function populate(cluster, t, kinds) {
    const clients = [];
    for (let at = 0; at < CLIENTS; at += 50) {
        const some = Array.from({ length: Math.min(50, CLIENTS - at) }, (_, i) => new kinds[(at + i) % kinds.length](cluster.balancer.public, channel));
        clients.push(...(await Promise.all(some.map((client) => client.connect()))));
    }
    t.after(() => clients.forEach((client) => client.close()));
    return clients;
}

// The most that came back within 100 ms of each other.
function largestHeap(clients) {
    const dials = clients.flatMap((client) => client.dials).sort((a, b) => a - b);
    let [most, first] = [0, 0];
    dials.forEach((at, i) => {
        while (dials[first] <= at - 100) first += 1;
        most = Math.max(most, i - first + 1);
    });
    return most;
}

async function checkAll(t, clients, sent, codes) {
    await until(() => "all publications with each client", () => clients.every(({ publications }) => publications.length >= sent.length)).catch(
        (error) => t.diagnostic(error.message), // the checks below say more
    );
    for (const kind of new Set(clients.map((client) => client.constructor))) {
        assertAllGotAll(clients.filter((client) => client.constructor === kind), sent);
    }
    const away = clients.flatMap((client) => client.away).sort((a, b) => a - b);
    const part = (share) => `${Math.round(away[Math.floor((away.length - 1) * share)])} ms`;
    const heap = largestHeap(clients);
    t.diagnostic(`${sent.length} publications, ${clients.length} clients, ${away.length} reconnects, at most ${heap} in 100 ms at ${RATE} a second`);
    t.diagnostic(`away: p50 ${part(0.5)}, p99 ${part(0.99)}, longest ${part(1)}`);
    const closes = new Set(clients.flatMap((client) => client.closes));
    assert.deepEqual([...closes].filter((code) => !codes.includes(code)), [], "every close says why");
}

async function roll(t, cluster, clients, programs) {
    const backEnd = new BackEnd(cluster.nodes, t);
    for (const as of programs) {
        for (const node of cluster.nodes) {
            assert.equal(await cluster.terminate(node), 0, `${node.name} leaves in good order`);
            await cluster.launch(node, as);
            await cluster.untilBalanced(node);
        }
    }
    await checkAll(t, clients, await backEnd.stop(), [4001, 1012]);
    assert.ok(clients.every(({ reconnects }) => reconnects >= 1), "each client had to move");
}

test("a cluster is rolled and nobody notices", { timeout: 600_000 }, async (t) => {
    const cluster = await Cluster.start("roll", { nodes: 3, more });
    t.after(() => cluster.stop());
    const clients = await populate(cluster, t, [Client, BinaryClient, BareClient]);
    await roll(t, cluster, clients, [{}]);
});

test("a node that is killed loses nothing for whoever holds a position", { timeout: 600_000 }, async (t) => {
    const cluster = await Cluster.start("roll-killed", { nodes: 3, more });
    t.after(() => cluster.stop());
    const clients = await populate(cluster, t, [Client, BinaryClient]);
    const [victim] = cluster.nodes;
    assert.ok(clients.some((client) => client.node === victim.name));
    const backEnd = new BackEnd(cluster.nodes, t);
    await until(() => "some publications", () => backEnd.sent.length >= 10);
    await kill(victim.child);
    await until(() => "all clients on the other nodes", () => clients.every(({ node }) => node !== undefined && node !== victim.name), 60_000);
    await checkAll(t, clients, await backEnd.stop(), [1006]);
});

test("a cluster is rolled from another version to this one and back", { timeout: 600_000, skip: !other && "SKYWAVE_BIN_OTHER is not set" }, async (t) => {
    // What both of them know of settings.
    const common = { more: process.env.ROLL_OTHER_SETTINGS ?? more };
    const cluster = await Cluster.start("roll-versions", { nodes: 3, program: other, ...common });
    t.after(() => cluster.stop());
    const clients = await populate(cluster, t, [Client, BinaryClient, BareClient]);
    await roll(t, cluster, clients, [{ program: skywave, more }, { program: other, ...common }]);
});
