// Two nodes of two versions on one Redis, as in the middle of an upgrade: whatever goes from one to the other, goes both ways.
// SKYWAVE_BIN_OTHER is the other version; without it both are the same, which holds the test itself against mistakes.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { test } from "node:test";
import { Cluster } from "./cluster.mjs";
import { root, skywave, until } from "./processes.mjs";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const WebSocket = require("ws");

const other = resolve(root, process.env.SKYWAVE_BIN_OTHER ?? skywave);
const secret = "0123456789abcdef0123456789abcdef";
const more = `
[[auth.tokens.keys]]
alg = "HS256"
secret = "${secret}"
[drain]
grace = "100ms"
deadline = "3s"
[timeouts]
session_grace = "2s"
`;

function token(claims) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = Math.floor(Date.now() / 1000);
    const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iat: now - 60, exp: now + 3600, ...claims })}`;
    return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

// A connection that keeps what it hears.
class Connection {
    #socket;
    #id = 0;
    #said = [];

    static async open(node, connect = {}) {
        const connection = new Connection();
        connection.#socket = new WebSocket(`${node.public.replace(/^http/, "ws")}/ws`, "skywave.v1.json");
        connection.#socket.on("message", (frame) => {
            connection.#said.push(...frame.toString().split("\n").filter(Boolean).map((line) => JSON.parse(line)));
        });
        connection.closed = once(connection.#socket, "close").then(([code]) => code);
        await once(connection.#socket, "open");
        const reply = await connection.ask({ connect });
        assert.ok(reply.connected, JSON.stringify(reply));
        return Object.assign(connection, reply.connected);
    }

    async ask(command) {
        const id = ++this.#id;
        this.#socket.send(JSON.stringify({ id, ...command }));
        return this.hears(`an answer to ${JSON.stringify(command)}`, (said) => said.id === id);
    }

    // What it hears next that is so; it is taken out.
    async hears(what, is) {
        let place;
        const found = () => (place = this.#said.findIndex(is)) >= 0;
        await until(() => `${what}, but ${JSON.stringify(this.#said)}`, found);
        return this.#said.splice(place, 1)[0];
    }

    hearsData(data) {
        return this.hears(`the publication ${data}`, (said) => said.publication?.data === data);
    }

    // What was not taken out, of what must not come.
    complaints() {
        return this.#said.filter((said) => said.gap || said.error);
    }

    cut() {
        this.#socket.terminate();
        return this.closed;
    }
}

// Of one version there is one order.
for (const first of process.env.SKYWAVE_BIN_OTHER ? ["other", "this"] : ["other"]) {
    const [older, newer] = first === "other" ? [other, skywave] : [skywave, other];
    test(`a node of ${first} version, then one of the other beside it`, { timeout: 120_000 }, async (t) => {
        const cluster = await Cluster.start(`upgrade-${first}-first`, { program: older, more });
        t.after(() => cluster.stop());
        const [one, two] = cluster.nodes;
        // What is there when the second version comes, it has not written.
        await one.call("publish", { channel: "deep:before", data: "before" });
        await cluster.terminate(two);
        await cluster.launch(two, { program: newer });

        await t.test("both know both", async () => {
            for (const node of [one, two]) {
                const known = async () => (await node.call("nodes", {})).nodes.map(({ name }) => name).sort();
                await until(() => `${node.name} knows both`, async () => `${await known()}` === `${[one.name, two.name]}`);
            }
        });
        await t.test("what was kept before is there", async () => {
            const { publications } = await two.call("history", { channel: "deep:before", limit: 10 });
            assert.deepEqual(publications.map(({ data }) => data), ["before"]);
        });
        for (const [from, to] of [[one, two], [two, one]]) {
            const way = `${from.name} to ${to.name}`;
            await t.test(`publications, ${way}`, () => publications(from, to, `deep:${from.name}`));
            await t.test(`a client moves, ${way}`, () => moves(from, to, `deep:moves-${from.name}`));
            await t.test(`who is there, ${way}`, () => presence(from, to, `chat:${from.name}`));
            await t.test(`orders and surveys, ${way}`, () => orders(from, to));
            await t.test(`revoked tokens, ${way}`, () => revoked(from, to));
        }
        await t.test("a command that one version may not know does no harm", async () => {
            for (const [from, to] of [[one, two], [two, one]]) {
                const watcher = await Connection.open(to);
                // One that does not know it refuses it, or ignores the signal.
                await from.call("drain", { node: to.name, down_to_mean: true }).catch((error) => assert.match(error.message, /: 4\d\d /));
                await watcher.ask({ ping: {} });
                assert.ok((await fetch(`${to.internal}/readyz`)).ok);
                await watcher.cut();
            }
        });
        await t.test("nothing was dropped as unreadable", async () => {
            for (const node of [one, two]) {
                const page = await (await fetch(`${node.internal}/metrics`)).text();
                // An earlier release does not count it. The signal is the command above.
                const counts = page.split("\n").filter((line) => /^skywave_backplane_unreadable_total\{.*(?<!kind="signal")\}/.test(line));
                if (node === (older === skywave ? one : two)) assert.equal(counts.length, 4, page);
                assert.deepEqual(counts.filter((line) => !line.endsWith(" 0")), []);
                assert.doesNotMatch(readFileSync(node.child.log, "utf8"), /panicked|dropping what/);
            }
        });
        await t.test("an order to leave", async () => {
            await one.call("drain", { node: two.name });
            assert.equal(await two.child.ended, 0);
            await cluster.launch(two, { program: newer });
            await two.call("drain", { node: one.name });
            assert.equal(await one.child.ended, 0);
        });
    });
}

async function publications(from, to, channel) {
    const reader = await Connection.open(to, { subscribe: [{ channel }] });
    const writer = await Connection.open(from, { subscribe: [{ channel }] });
    await writer.ask({ publish: { channel, data: "from a client" } });
    await from.call("publish", { channel, data: "from a back end", key: "once" });
    for (const client of [reader, writer]) {
        await client.hearsData("from a client");
        await client.hearsData("from a back end");
    }
    const again = await to.call("publish", { channel, data: "from a back end", key: "once" });
    assert.equal(again.duplicate, true, "its key is known on the other node");
    const [here, there] = await Promise.all([from, to].map((node) => node.call("history", { channel, limit: 10 })));
    assert.deepEqual(here, there);
    assert.equal(here.publications.length, 2);
    await from.call("forget", { channel });
    for (const client of [reader, writer]) {
        await client.hears("the new line", (said) => said.gap?.channel === channel);
        assert.deepEqual(client.complaints(), []);
        await client.cut();
    }
}

// The session, its place and its id go with it.
async function moves(from, to, channel) {
    const client = await Connection.open(from, { subscribe: [{ channel }] });
    const { epoch, offset } = client.subscribed[0].position;
    await client.cut();
    for (const [node, data] of [[from, 1], [to, 2], [from, 3]]) await node.call("publish", { channel, data });
    const back = await Connection.open(to, { session: client.session, subscribe: [{ channel, since: { epoch, offset } }] });
    const [subscribed] = back.subscribed;
    assert.deepEqual([subscribed.recovered, subscribed.publications.map(({ data }) => data)], [true, [1, 2, 3]]);
    assert.equal(back.client, client.client);
    await back.cut();
}

async function presence(from, to, channel) {
    const watcher = await Connection.open(to);
    await watcher.ask({ subscribe: { channel, presence: true } });
    const member = await Connection.open(from, { token: token({ sub: "ada" }), subscribe: [{ channel }] });
    const { join } = await watcher.hears("a join", (said) => said.join);
    assert.deepEqual(join.member, { client: member.client, user: "ada" });
    const [here, there] = await Promise.all([from, to].map((node) => node.call("presence", { channel })));
    assert.deepEqual(here, there);
    assert.equal(here.total, 2);
    await member.ask({ unsubscribe: { channel } });
    const { leave } = await watcher.hears("a leave", (said) => said.leave);
    assert.equal(leave.member.client, member.client);
    // It dies: it has left when the grace is over, and the other node is told so.
    const dying = await Connection.open(from, { subscribe: [{ channel }] });
    await watcher.hears("its join", (said) => said.join);
    await dying.cut();
    assert.equal((await watcher.hears("its leave", (said) => said.leave)).leave.member.client, dying.client);
    assert.deepEqual(watcher.complaints(), []);
    await watcher.cut();
}

async function orders(from, to) {
    const user = `user-of-${to.name}`;
    const channel = `deep:given-${to.name}`;
    const client = await Connection.open(to, { token: token({ sub: user }) });
    const { connections, silent_nodes: silent } = await from.call("connections", { user });
    assert.deepEqual([connections.map((connection) => [connection.node, connection.client]), silent ?? []], [[[to.name, client.client]], []]);
    await from.call("subscribe", { user, channel });
    await until(
        () => "the channel is known to the survey",
        async () => (await from.call("channels", { prefix: channel })).channels.some((counted) => counted.channel === channel),
    );
    await from.call("publish", { channel, data: "for you" });
    await client.hearsData("for you");
    await from.call("unsubscribe", { user, channel });
    await client.hears("that it has lost it", (said) => said.unsubscribed?.channel === channel);
    await from.call("refresh", { user });
    await from.call("disconnect", { user });
    assert.equal(await client.closed, 4503);
}

async function revoked(from, to) {
    const user = `revoked-on-${from.name}`;
    const connect = { token: token({ sub: user, jti: user }) };
    const clients = [await Connection.open(from, connect), await Connection.open(to, connect)];
    await from.call("revoke", { jti: user });
    for (const client of clients) assert.equal(await client.closed, 4500);
    await assert.rejects(Connection.open(to, connect), /unauthenticated/);
}
