// What a client makes of what a node says. The node is a stand-in, for a real one does not say these things when asked to.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { SkywaveError, type Subscription } from "../src/index.js";
import { client, type Command, published, record, standIn, until, untilConnected, welcome } from "./support.js";

// How delays are spread is another test's; here nobody waits for one.
beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0.02));
afterEach(() => void vi.restoreAllMocks());

const polite = (command: Command) => {
    const { id, subscribe, unsubscribe, publish, ping } = command as Command & { subscribe?: { channel: string } };
    if (command.connect) return welcome(command);
    if (subscribe) return { id, subscribed: { channel: subscribe.channel, position: { epoch: "e", offset: 0 } } };
    if (unsubscribe) return { id, unsubscribed: unsubscribe };
    if (publish) return { id, published: { position: { epoch: "e", offset: 1 }, duplicate: false } };
    return ping ? { id, pong: {} } : undefined;
};

async function subscribed(subscription: Subscription) {
    await subscription.ready();
    return record(subscription);
}

describe("delivery", () => {
    test("a publication in the frame of the answer to subscribe is not lost", async () => {
        const node = await standIn((command) => {
            const answer = polite(command);
            return command.subscribe ? [answer, published("a", 1), published("a", 2)] : answer;
        });
        const one = client(node.url);
        one.connect();
        await untilConnected(one);
        const seen = record(one.subscribe("a"));
        await until("both", () => seen.data.length === 2);
        expect(seen).toMatchObject({ offsets: [1, 2], log: ["subscribed", "publication", "publication"] });
    });

    test("each place is handed over once, whatever comes twice", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const a = one.subscribe("a");
        one.connect();
        const seen = await subscribed(a);
        node.last().say(...[1, 2, 2, 1, 3].map((offset) => published("a", offset)), published("b", 1));
        node.last().say(published("a", 2), published("a", 4));
        await until("the last", () => seen.data.includes(4));
        expect(seen.offsets).toEqual([1, 2, 3, 4]);
        expect(a.position).toEqual({ epoch: "e", offset: 4 });
    });

    test("a handler that throws takes nothing from what follows", async () => {
        const told = vi.spyOn(console, "error").mockImplementation(() => {});
        const node = await standIn(polite);
        const one = client(node.url);
        const a = one.subscribe("a");
        a.on("publication", ({ offset }) => {
            if (offset === 1) throw new Error("mine");
        });
        one.connect();
        const seen = await subscribed(a);
        node.last().say(published("a", 1), published("a", 2));
        await until("both", () => seen.data.length === 2);
        expect(told).toHaveBeenCalledOnce();
    });

    test("a gap is told, and what follows it is taken, also behind a rollback", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const a = one.subscribe("a");
        one.connect();
        const seen = await subscribed(a);
        const gaps: unknown[] = [];
        a.on("gap", (gap) => gaps.push(gap));
        node.last().say(published("a", 5), { gap: { channel: "a", reason: "rollback", position: { epoch: "e", offset: 3 } } }, published("a", 4));
        await until("what follows", () => seen.data.length === 2);
        expect(seen.offsets).toEqual([5, 4]);
        expect(gaps).toEqual([{ reason: "rollback", since: { epoch: "e", offset: 5 }, position: { epoch: "e", offset: 3 } }]);
    });

    test("members, joins and leaves come to whoever asked for them", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const [a, b] = [one.subscribe("a", { presence: true }), one.subscribe("b")];
        one.connect();
        const [seen, unseen] = [await subscribed(a), await subscribed(b)];
        node.last().say({ subscribed: { channel: "a", members: [{ client: "c" }], total: 7 } }, { join: { channel: "a", member: { client: "d" } } });
        node.last().say({ join: { channel: "b", member: { client: "d" } } }, { leave: { channel: "a", member: { client: "d" } } });
        await until("the leave", () => seen.log.includes("leave"));
        expect([seen.log, unseen.log]).toEqual([["members", "join", "leave"], []]);
    });

    test("what a back end subscribes is a subscription, and what it takes away has ended", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const given: Subscription[] = [];
        one.on("subscription", (subscription) => {
            given.push(subscription);
            record(subscription);
        });
        one.connect();
        await untilConnected(one);
        node.last().say({ subscribed: { channel: "x", position: { epoch: "e", offset: 4 } } }, published("x", 5));
        await until("it", () => given[0]?.position?.offset === 5);
        node.last().say({ unsubscribed: { channel: "x", reason: "by the API" } });
        await until("its end", () => given[0]?.state === "ended");
        expect(one.subscribe("x")).not.toBe(given[0]);
    });
});

describe("a reconnect", () => {
    test("recovers all subscriptions in one round trip, with the session", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const subscriptions = ["a", "b", "c"].map((name) => one.subscribe(name));
        one.connect();
        await untilConnected(one);
        node.last().say(published("a", 7), published("b", 9));
        await until("both", () => subscriptions[1]?.position?.offset === 9);
        node.last().socket.close(4001);
        await until("back", () => node.connections.length === 2 && one.state === "connected");
        await Promise.all(subscriptions.map((subscription) => subscription.ready()));
        expect(node.last().heard).toHaveLength(1);
        const at = (offset: number) => ({ epoch: "e", offset });
        expect(node.last().heard[0]?.connect).toMatchObject({
            session: "s",
            subscribe: [{ channel: "a", since: at(7) }, { channel: "b", since: at(9) }, { channel: "c", since: at(0) }],
        });
    });

    test("hands over what was missed once, before the rest, and marks it", async () => {
        const node = await standIn((command, connection) => {
            if (!command.connect || connection === node.connections[0]) return polite(command);
            const publications = [2, 3, 4].map((offset) => ({ epoch: "e", offset, data: offset }));
            return [welcome(command, {}, () => ({ position: { epoch: "e", offset: 4 }, recovered: true, publications })), published("a", 4), published("a", 5)];
        });
        const one = client(node.url);
        const a = one.subscribe("a");
        const marked: boolean[] = [];
        a.on("publication", ({ recovered }) => marked.push(recovered));
        one.connect();
        const seen = await subscribed(a);
        node.last().say(published("a", 1), published("a", 2));
        await until("two", () => seen.data.length === 2);
        node.last().socket.terminate();
        await until("all", () => seen.data.length === 5);
        expect(seen).toMatchObject({ offsets: [1, 2, 3, 4, 5], gaps: [] });
        expect(marked).toEqual([false, false, true, true, false]);
    });

    test("a handler that closes in the middle of what was missed is given the rest by the next connection", async () => {
        const node = await standIn((command, connection) => {
            if (!command.connect || connection === node.connections[0]) return polite(command);
            const { offset } = command.connect.subscribe[0]!.since as { offset: number };
            const publications = [1, 2, 3].slice(offset).map((offset) => ({ epoch: "e", offset, data: offset }));
            return welcome(command, {}, () => ({ position: { epoch: "e", offset: 3 }, recovered: true, publications }));
        });
        const one = client(node.url);
        const a = one.subscribe("a");
        a.on("publication", ({ offset }) => {
            if (offset !== 2) return;
            one.close();
            one.connect();
        });
        one.connect();
        const seen = await subscribed(a);
        node.last().socket.terminate();
        await until("all", () => seen.data.length === 3);
        expect(seen).toMatchObject({ offsets: [1, 2, 3], gaps: [] });
        expect(node.connections).toHaveLength(3);
    });

    test.each([
        ["the history does not reach back", { position: { epoch: "e", offset: 90 }, recovered: false }, ["not_recovered"]],
        ["the channel is live only", {}, ["possible"]],
    ])("tells a gap when %s", async (_, outcome, gaps) => {
        const hasPosition = "position" in outcome;
        const node = await standIn((command, connection) => {
            if (!command.connect) return polite(command);
            const isBack = connection !== node.connections[0];
            return welcome(command, {}, () => (isBack || !hasPosition ? outcome : { position: { epoch: "e", offset: 1 } }));
        });
        const one = client(node.url);
        const a = one.subscribe("a");
        one.connect();
        const seen = await subscribed(a);
        node.last().socket.terminate();
        await until("back", () => seen.log.includes("subscribed"));
        expect(seen.gaps).toEqual(gaps);
    });

    test("waits for as long as the node says, and not if it says never", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const told: { reconnect: boolean; afterMs: number; reason: string }[] = [];
        one.on("disconnected", (event) => told.push(event));
        one.connect();
        await untilConnected(one);
        node.last().say({ disconnect: { code: 4001, reason: "draining", reconnect: true, after_ms: 400 } });
        node.last().socket.close(4001, "draining");
        await until("told", () => told.length === 1);
        expect(told[0]).toMatchObject({ reconnect: true, reason: "draining" });
        expect(told[0]!.afterMs).toBeGreaterThanOrEqual(400);
        const from = Date.now();
        await untilConnected(one);
        expect(Date.now() - from).toBeGreaterThan(250);
        const late = expect(one.rpc("m")).rejects.toMatchObject({ code: "lost" });
        const waiting = [one.publish("a", 1)];
        await waiting[0];
        node.last().socket.close(4503, "by the API");
        await until("the end", () => one.state === "closed");
        expect(told[1]).toMatchObject({ reconnect: false, reason: "by the API" });
        await late;
        await expect(one.publish("a", 1)).rejects.toMatchObject({ code: "closed" });
        await expect(one.history("a")).rejects.toMatchObject({ code: "closed" });
        one.connect();
        await untilConnected(one);
    });

    test("comes when the node says nothing any more, not even to a ping", async () => {
        const node = await standIn((command, connection) => {
            if (command.connect) return welcome(command, { ping_interval_ms: 1_200 });
            return command.ping && connection !== node.connections[0] ? { id: command.id, pong: {} } : undefined;
        });
        const one = client(node.url, { pongTimeoutMs: 300 });
        one.connect();
        await until("the second connection", () => node.connections.length === 2 && one.state === "connected", 12_000);
        await until("a ping there", () => node.last().heard.some(({ ping }) => ping), 12_000);
        expect(node.connections[0]!.heard.some(({ ping }) => ping)).toBe(true);
        await until("its pong", () => node.last().heard.filter(({ ping }) => ping).length > 1, 12_000);
        expect(node.connections).toHaveLength(2);
    });

    test("leaves what was unsubscribed while it was under way", async () => {
        const node = await standIn((command) => (command.connect ? undefined : polite(command)));
        const one = client(node.url);
        const given: unknown[] = [];
        one.on("subscription", (subscription) => given.push(subscription));
        const [a, b] = [one.subscribe("a"), one.subscribe("b")];
        one.connect();
        await until("the greeting", () => node.connections[0]?.heard.length === 1);
        a.unsubscribe();
        b.unsubscribe();
        const again = one.subscribe("b");
        node.last().say(welcome(node.last().heard[0]!));
        await again.ready();
        expect(node.last().heard.slice(1)).toMatchObject([{ unsubscribe: { channel: "a" } }, { unsubscribe: { channel: "b" } }, { subscribe: { channel: "b" } }]);
        expect(given).toEqual([]);
    });
});

describe("publishing", () => {
    test("what was in flight when the connection broke goes again under the same key", async () => {
        const node = await standIn((command, connection) => (command.publish && connection === node.connections[0] ? undefined : polite(command)));
        const one = client(node.url);
        one.connect();
        await untilConnected(one);
        const all = [one.publish("a", 1), one.publish("a", { two: 2 }), one.publish("a", "three", { key: "mine" })];
        await until("they are there", () => node.last().heard.filter(({ publish }) => publish).length === 3);
        node.last().socket.terminate();
        await Promise.all(all);
        const said = node.connections.map(({ heard }) => heard.flatMap(({ publish }) => publish ?? []));
        expect(said[1]).toEqual(said[0]);
        expect(said[0]!.map(({ data }) => data)).toEqual([1, { two: 2 }, "three"]);
        expect(said[0]![2]!.key).toBe("mine");
    });

    test("an offer goes now or never", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        const errors: SkywaveError[] = [];
        one.on("error", (error) => errors.push(error));
        expect(one.offer("a", 1)).toBe(false);
        one.connect();
        await untilConnected(one);
        expect(one.offer("a", 2)).toBe(true);
        await until("it", () => node.last().heard.some(({ publish }) => publish?.data === 2));
        node.last().say({ error: { code: "limit", message: "too much", retry: true, after_ms: 10 } });
        await until("the error", () => errors.length === 1);
        expect(errors[0]).toMatchObject({ code: "limit", retry: true, afterMs: 10 });
    });
});

describe("requests", () => {
    test("wait for the connection, and have an end", async () => {
        const node = await standIn((command) => {
            const { id, rpc } = command as Command & { rpc?: { method: string; data: unknown } };
            if (rpc) return rpc.method === "echo" ? { id, result: { data: rpc.data } } : undefined;
            return polite(command);
        });
        const one = client(node.url, { requestTimeoutMs: 300 });
        const early = one.rpc("echo", [1]);
        one.connect();
        expect(await early).toEqual([1]);
        await expect(one.rpc("silence")).rejects.toMatchObject({ code: "timeout" });
        const lost = expect(one.rpc("silence")).rejects.toMatchObject({ code: "lost" });
        node.last().socket.terminate();
        await lost;
    });

    test("a refused channel has ended, one that was refused for the moment is asked for again", async () => {
        let refusals = 0;
        const node = await standIn((command) => {
            if (!command.connect) return (command.subscribe as { channel: string })?.channel === "later" && refusals++ < 1 ? { id: command.id, error: { code: "limit", retry: true, after_ms: 20 } } : polite(command);
            return welcome(command, {}, (name) => {
                if (name === "never") return { error: { code: "permission_denied", message: "no", retry: false } };
                return name === "later" ? { error: { code: "unavailable", retry: true } } : {};
            });
        });
        const one = client(node.url);
        const [never, later] = [one.subscribe("never"), one.subscribe("later")];
        one.connect();
        await expect(never.ready()).rejects.toMatchObject({ code: "permission_denied", message: "no" });
        expect(never.state).toBe("ended");
        await later.ready();
        expect(refusals).toBe(2);
        expect(node.last().heard[0]?.connect?.subscribe).toHaveLength(2);
    });
});

describe("tokens", () => {
    test("are asked for at each connect, before they end, and after 4008", async () => {
        let made = 0;
        const node = await standIn((command) => {
            const { id, refresh } = command as Command & { refresh?: { token: string } };
            if (command.connect) return welcome(command, { expires_in_ms: 400 });
            return refresh ? { id, refreshed: {} } : undefined;
        });
        const one = client(node.url, { getToken: async () => `token ${++made}` });
        one.connect();
        await until("a refresh", () => node.connections[0]?.heard.some(({ refresh }) => refresh));
        expect(node.last().heard).toMatchObject([{ connect: { token: "token 1" } }, { refresh: { token: "token 2" } }]);
        node.last().socket.close(4008, "token_expired");
        await until("back", () => node.connections.length === 2 && one.state === "connected");
        expect(node.last().heard[0]).toMatchObject({ connect: { token: "token 3" } });
    });

    test("without them an expired one is the end", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        one.connect();
        await untilConnected(one);
        node.last().socket.close(4008, "token_expired");
        await until("the end", () => one.state === "closed");
    });

    test("one that cannot be had is asked for again, unless it is said not to be", async () => {
        const node = await standIn(polite);
        let tries = 0;
        const one = client(node.url, {
            getToken: () => {
                if (++tries === 1) throw new Error("not now");
                return undefined;
            },
        });
        one.connect();
        await untilConnected(one);
        expect(tries).toBe(2);
        const other = client(node.url, { getToken: () => Promise.reject(Object.assign(new Error("logged out"), { retry: false })) });
        other.connect();
        await until("the end", () => other.state === "closed");
    });

    test("a channel's own is asked for before each subscribe", async () => {
        const node = await standIn(polite);
        const one = client(node.url);
        let made = 0;
        const a = one.subscribe("a", { getToken: (channel) => `${channel} ${++made}` });
        one.connect();
        await a.ready();
        node.last().socket.close(4003);
        await until("back", () => node.connections.length === 2 && a.state === "subscribed");
        expect(node.connections.map(({ heard }) => heard[0]?.connect?.subscribe[0])).toMatchObject([{ token: "a 1" }, { token: "a 2" }]);
    });
});
