// The fallback against real nodes.
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { WebSocketClass } from "../src/index.js";
import { channel, client, node, record, token, until, untilConnected, wire } from "./support.js";

const secret = "the secret of the tests, of thirty-two bytes or more";
let open: Awaited<ReturnType<typeof node>>;

const settings = (name: string) => `
[node]
name = "${name}"
[auth]
anonymous = true
[auth.tokens]
keys = [{ alg = "HS256", secret = "${secret}" }]
[limits]
handshakes_per_second = 0
publications_per_second = 0
commands_per_second = 0
[namespaces.default]
history = { size = 1000, ttl = "10m" }
presence = true
subscribe = "anyone"
publish = "subscribers"
[namespaces.live]
subscribe = "anyone"
publish = "subscribers"
[namespaces.secret]
publish = "token"
`;

beforeAll(async () => {
    open = await node(settings("one"));
});
beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0.02));
afterEach(() => void vi.restoreAllMocks());

// As behind a proxy that lets none through.
class Never {
    readyState = 3;
    bufferedAmount = 0;
    onopen = null;
    onmessage = null;
    onclose: ((event: never) => unknown) | null = null;
    onerror = null;
    constructor() {
        setTimeout(() => this.onclose?.({ code: 1006, reason: "" } as never));
    }
    send(): void {}
    close(): void {}
}

const WebSocket = Never as WebSocketClass;
const tokenFor = (sub: string) => token(secret, { sub, exp: Math.floor(Date.now() / 1_000) + 60 });

describe("the fallback of a real node", () => {
    test("subscribes, publishes and sees who is there as a WebSocket does", async () => {
        const name = channel();
        const [ada, bob] = [client(open.url, { WebSocket, getToken: () => tokenFor("ada") }), client(open.url)];
        const [hers, his] = [ada.subscribe<unknown>(name, { presence: true }), bob.subscribe<unknown>(name)];
        const [seenByAda, seenByBob] = [record(hers), record(his)];
        const joined: (string | undefined)[] = [];
        hers.on("join", ({ user }) => joined.push(user));
        ada.connect();
        await hers.ready();
        bob.connect();
        await his.ready();
        expect(seenByAda.log).toContain("members");
        await until("Bob", () => seenByAda.log.includes("join"));
        expect(await hers.publish({ n: 1 }, { key: "k" })).toMatchObject({ position: { offset: 1 }, duplicate: false });
        expect(await hers.publish({ n: 1 }, { key: "k" })).toMatchObject({ position: { offset: 1 }, duplicate: true });
        const users: (string | undefined)[] = [];
        his.on("publication", ({ user }) => users.push(user));
        await his.publish("zwei\nZeilen");
        await hers.publish(null);
        await until("all", () => seenByAda.data.length === 3 && seenByBob.data.length === 3);
        expect(seenByAda).toMatchObject({ data: [{ n: 1 }, "zwei\nZeilen", null], offsets: [1, 2, 3], gaps: [] });
        expect(users).toEqual([undefined, "ada"]);
    });

    test("loses and doubles nothing when it breaks, and when channels come and go", async () => {
        const name = channel();
        const between = await wire(open.port);
        const publisher = client(open.url);
        const reader = client(between.url, { WebSocket });
        const subscription = reader.subscribe<number>(name);
        const seen = record(subscription);
        publisher.subscribe(name);
        publisher.connect();
        await untilConnected(publisher);
        reader.connect();
        await subscription.ready();
        let n = 0;
        for (const step of ["break", "add", "break", "leave", "add=,x", "break"]) {
            for (let i = 0; i < 10; i++) void publisher.publish(name, ++n);
            if (step === "break") between.cut();
            else if (step === "leave") reader.subscribe(`${name}-add`).unsubscribe();
            else await reader.subscribe(`${name}-${step}`).ready();
            for (let i = 0; i < 10; i++) await publisher.publish(name, ++n);
            await until(`all after ${step}`, () => seen.data.length >= n);
        }
        expect(seen.data).toEqual(Array.from({ length: n }, (_, i) => i + 1));
        expect(seen.gaps).toEqual([]);
        expect(reader.state).toBe("connected");
    });

    test("says what it cannot do, and what may not be", async () => {
        const one = client(open.url, { WebSocket });
        const [good, bad] = [one.subscribe(channel()), one.subscribe("secret:a")];
        one.connect();
        await good.ready();
        await expect(bad.ready()).rejects.toMatchObject({ code: "permission_denied", retry: false });
        await expect(one.publish("secret:a", 1)).rejects.toMatchObject({ code: "permission_denied", retry: false });
        await expect(one.publish(good.channel, "x".repeat(70_000))).rejects.toMatchObject({ code: "too_large", retry: false });
        await expect(one.rpc("m")).rejects.toMatchObject({ code: "unsupported" });
        const eve = client(open.url, { WebSocket, getToken: () => token("another secret, which is not the node's own", { sub: "eve" }) });
        eve.subscribe(channel());
        eve.connect();
        await until("the end", () => eve.state === "closed");
    });

    test("recovers on a WebSocket what it missed on a stream, and the other way", async () => {
        const name = channel();
        const publisher = client(open.url);
        publisher.subscribe(name);
        publisher.connect();
        await untilConnected(publisher);
        const stream = client(open.url, { WebSocket });
        const before = stream.subscribe<number>(name);
        stream.connect();
        await before.ready();
        await publisher.publish(name, 1);
        await until("the first", () => before.position?.offset === 1);
        stream.close();
        for (let n = 2; n <= 5; n++) await publisher.publish(name, n);
        const socket = client(open.url);
        const after = socket.subscribe<number>(name, { since: before.position! });
        const onSocket = record(after);
        socket.connect();
        await until("what was missed", () => onSocket.data.length === 4);
        const again = client(open.url, { WebSocket });
        const onStream = record(again.subscribe<number>(name, { since: before.position! }));
        again.connect();
        await until("what was missed", () => onStream.data.length === 4);
        expect([onSocket.data, onStream.data]).toEqual([[2, 3, 4, 5], [2, 3, 4, 5]]);
    });

    test("on a channel that is live only a break is a gap", async () => {
        const name = `live:${channel()}`;
        const between = await wire(open.port);
        const one = client(between.url, { WebSocket });
        const seen = record(one.subscribe(name));
        one.connect();
        await untilConnected(one);
        between.cut();
        await until("a gap", () => seen.gaps.length === 1);
        expect(seen.gaps).toEqual(["possible"]);
    });

    test("is told to leave by a drain, and comes back when it says", async () => {
        const leaving = await node(`${settings("two")}[drain]\ngrace = "0s"\nwindow = "100ms"\n`);
        const one = client(leaving.url, { WebSocket });
        const subscription = one.subscribe(channel());
        one.connect();
        await subscription.ready();
        const ends: { code: number; reason: string; reconnect: boolean }[] = [];
        one.on("disconnected", (event) => ends.push(event));
        leaving.child.process.kill("SIGTERM");
        await until("the end", () => ends.length > 0);
        expect(ends[0]).toMatchObject({ code: 4001, reconnect: true, reason: "draining" });
    });
});
