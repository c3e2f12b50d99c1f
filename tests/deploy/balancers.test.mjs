// HAProxy, nginx and Envoy with the settings of deploy/, before three nodes: clients of each kind are spread, everything passes
// as it comes, an address cannot be made up, and neither a node that leaves nor one that dies is noticed.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { networkInterfaces } from "node:os";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { assertAllGotAll, payload } from "../cluster/checks.mjs";
import { BareClient, BinaryClient, Client } from "../cluster/client.mjs";
import { Cluster } from "../cluster/cluster.mjs";
import { kill, until } from "../cluster/processes.mjs";
import { balancers } from "./balancers.mjs";

const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");

const CHANNEL = "deep:balanced";
const KINDS = [Client, BinaryClient, BareClient];
const CLIENTS_OF_ADDRESS = 4; // on each node
// Where the balancers come from, and what Envoy makes of a client on 127.0.0.1: it says that it is the machine's own address.
// The clients of the test of addresses come from others.
const proxies = Object.values(networkInterfaces()).flat().map(({ address }) => address);
const options = {
    nodes: 3,
    environment: {
        SKYWAVE__PUBLIC__TRUSTED_PROXIES: JSON.stringify(proxies),
        SKYWAVE__LIMITS__CONNECTIONS_PER_IP: `${CLIENTS_OF_ADDRESS}`,
    },
    more: '[drain]\ngrace = "4s"\nrate = 10\ndeadline = "30s"\n',
};

// Side by side, for they mostly wait; started one after the other, so that none takes a port that another one has just chosen.
let started = Promise.resolve();
describe("balancers", { concurrency: true }, () => {
    for (const [name, start] of Object.entries(balancers)) test(`${name} before three nodes`, { timeout: 180_000 }, async (t) => {
        started = started.catch(() => {}).then(async () => {
            const cluster = await Cluster.start(`balancer-${name}`, options);
            t.after(() => cluster.stop());
            return { cluster, ...(await start(cluster, t)) };
        });
        const { cluster, url, hasDown } = await started;
        const clients = Array.from({ length: 30 }, (_, i) => new KINDS[i % 3](url, CHANNEL));
        t.after(() => clients.forEach((client) => client.close()));
        for (const client of clients) await client.connect();
        const sent = [];

        await t.test("clients are spread", async () => {
            const counts = await Promise.all(cluster.nodes.map(connections));
            t.diagnostic(`connections: ${counts}`);
            assert.equal(counts.reduce((sum, count) => sum + count), clients.length);
            // Envoy draws lots.
            assert.ok(Math.min(...counts) >= 7, `${counts}`);
            if (name !== "envoy") await theEmptiestIsNext(url);
        });

        await t.test("what clients publish passes, of every size", async () => {
            await everySize(clients, sent);
            checkAll(clients, sent);
        });

        await t.test("an address is what the balancer saw, not what the client says", () => anAddressIsSeen(url));

        await t.test("a node that leaves gets nobody new, and nobody notices", async () => {
            const [, leaving] = cluster.nodes;
            const backEnd = publishing(cluster.nodes, sent);
            t.after(() => backEnd.stop());
            const began = performance.now();
            let isGone = false;
            const gone = cluster.terminate(leaving).then((code) => {
                isGone = true;
                return code;
            });
            const tries = [];
            let downAt;
            while (!isGone) {
                const at = performance.now() - began;
                if (!downAt && (await hasDown?.(leaving))) downAt = at;
                tries.push({ at, ...(await opened(url)) });
                await sleep(50);
            }
            assert.equal(await gone, 0, "it left in good order");
            await until(() => "all elsewhere", () => clients.every(({ node }) => node !== undefined && node !== leaving.name));
            await backEnd.stop();

            if (hasDown) assert.ok(downAt < 3_000, `found not ready after ${downAt} ms`);
            assert.ok(tries.length > 40, `${tries.length} tries`);
            t.diagnostic(`while it left: ${tries.length} new clients`);
            assert.deepEqual(tries.filter(({ status }) => status !== 101), [], "another node is asked");
            // The signal takes a moment to arrive.
            assert.deepEqual(tries.filter(({ at, node }) => at > 300 && node === leaving.name), []);
            const closes = new Set(clients.flatMap((client) => client.closes));
            assert.deepEqual([...closes].filter((code) => ![4001, 1012].includes(code)), []);
            assert.ok(clients.some(({ reconnects }) => reconnects > 0), "some had to move");
            await until(() => "all with each client", () => clients.every(({ publications }) => publications.length >= sent.length));
            checkAll(clients, sent);

            await cluster.launch(leaving);
            await until(() => "new clients on the node that came back", async () => (await opened(url)).node === leaving.name, 30_000);
        });

        await t.test("a node that dies is noticed by those that were on it", async () => {
            const [dying] = cluster.nodes;
            // A bare client has no position when its node dies: these are here no more.
            const lasting = clients.filter((client) => !(client instanceof BareClient));
            clients.filter((client) => client instanceof BareClient).forEach((client) => client.close());
            const before = lasting.filter(({ node }) => node !== dying.name).map((client) => [client, client.reconnects]);
            const backEnd = publishing(cluster.nodes.slice(1), sent);
            t.after(() => backEnd.stop());
            await kill(dying.child);
            const tries = [];
            for (let i = 0; i < 40; i++) {
                tries.push(await opened(url));
                await sleep(50);
            }
            assert.deepEqual(tries.filter(({ status }) => status !== 101), [], "another node is asked");
            await until(() => "all elsewhere", () => lasting.every(({ node }) => node !== undefined && node !== dying.name));
            await backEnd.stop();
            assert.deepEqual(before.filter(([client, reconnects]) => client.reconnects !== reconnects), [], "the others stay");
            await until(() => "all with each client", () => lasting.every(({ publications }) => publications.length >= sent.length));
            checkAll(lasting, sent);
        });
    });
});

// Where three have gone three more have room: in turn would be one for each node.
async function theEmptiestIsNext(url) {
    const held = [];
    const open = async () => (await opened(url, { held })).node;
    const nodes = [];
    for (let i = 0; i < 9; i++) nodes.push(await open());
    const [emptiest] = nodes;
    await Promise.all(held.filter((_, i) => nodes[i] === emptiest).map(closed));
    const next = [await open(), await open(), await open()];
    assert.ok(next.filter((node) => node === emptiest).length >= 2, `${nodes} without those on ${emptiest}: ${next}`);
    await Promise.all(held.map(closed));
}

const closed = (socket) => socket.readyState === WebSocket.CLOSED || new Promise((resolve) => socket.once("close", resolve).close());

// From a client to all others, short and longer than the buffers of a proxy.
async function everySize(clients, sent) {
    const sizes = [0, 100, 3_000, 20_000, 60_000];
    for (const [i, size] of sizes.entries()) {
        const data = { ...payload("a client", i), more: "x".repeat(size) };
        clients[i % KINDS.length].publish(data);
        sent.push(data);
        await until(() => `${size} bytes with each client`, () => clients.every(({ publications }) => publications.length === sent.length));
    }
}

// More clients of one address than all nodes together admit, each of which says that it has another one.
async function anAddressIsSeen(url) {
    const seats = CLIENTS_OF_ADDRESS * 3;
    const outcomes = [];
    const held = [];
    for (let i = 0; i <= seats; i++) {
        const headers = { "x-forwarded-for": `203.0.113.${i}`, forwarded: `for=198.51.100.${i}` };
        const outcome = await opened(url, { localAddress: "127.0.0.2", headers, held });
        outcomes.push(outcome);
    }
    const refused = outcomes.filter(({ status }) => status !== 101);
    assert.ok(refused.length >= 1, "nobody was refused: an address was not seen, or was believed");
    assert.ok(refused.every(({ status }) => status === 429), JSON.stringify(refused));
    assert.ok(outcomes.length - refused.length >= CLIENTS_OF_ADDRESS);
    assert.equal((await opened(url, { localAddress: "127.0.0.3" })).status, 101, "another address has seats of its own");
    await Promise.all(held.map(closed));
}

// What a handshake is answered, and by which node if it is taken. The socket is put into `held`, or closed again.
function opened(url, { held, ...more } = {}) {
    return new Promise((resolve) => {
        const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`, "skywave.v1.json", { handshakeTimeout: 5_000, ...more });
        socket.on("open", () => socket.send(JSON.stringify({ id: 1, connect: {} })));
        socket.on("message", (frame) => {
            const { connected } = JSON.parse(frame.toString().split("\n")[0]);
            if (!connected) return;
            resolve({ status: 101, node: connected.node });
            if (held) held.push(socket);
            else socket.close(1000);
        });
        socket.on("unexpected-response", (request, response) => {
            resolve({ status: response.statusCode });
            request.destroy();
        });
        socket.on("error", (error) => resolve({ status: error.message }));
    });
}

// A back end that publishes until it is told to stop, to whichever of these nodes answers, under a key so that nothing is there twice.
function publishing(nodes, sent) {
    let isOver = false;
    const by = `back end after ${sent.length}`;
    const done = (async () => {
        for (let number = 0; !isOver; number++) {
            const data = payload(by, number);
            const call = (at) => nodes[at % nodes.length].call("publish", { channel: CHANNEL, data, key: `${by} ${number}` });
            for (let at = number; !(await call(at).then(() => true, () => false)); at++) await sleep(10);
            sent.push(data);
            await sleep(20);
        }
    })();
    return { stop: () => ((isOver = true), done) };
}

// Whether each has all, once and in one order; the bare ones count positions of their own.
function checkAll(clients, sent) {
    for (const kind of new Set(clients.map((client) => client.constructor))) {
        assertAllGotAll(clients.filter((client) => client.constructor === kind), sent);
    }
}

async function connections(node) {
    const text = await (await fetch(`${node.internal}/metrics`)).text();
    const figures = [...text.matchAll(/^skywave_connections\{.*\} (\d+)$/gm)];
    return figures.reduce((sum, [, count]) => sum + Number(count), 0);
}
