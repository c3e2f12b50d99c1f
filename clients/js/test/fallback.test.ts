// Where no WebSocket passes: Server-Sent Events and POST.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { EventServer } from "./events.js";
import { client, record, until, untilConnected } from "./support.js";

beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0.02));
afterEach(() => void vi.restoreAllMocks());

const bearer = (claims: object) => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;

describe("the fallback", () => {
    test("comes after two WebSockets that did not open, and takes and brings publications", async () => {
        const node = await EventServer.start();
        const one = client(node.url, { getToken: () => bearer({ sub: "ada" }) });
        const transports: string[] = [];
        one.on("connecting", ({ transport }) => transports.push(transport));
        const a = one.subscribe<unknown>("chat:a/b");
        const seen = record(a);
        const early = a.publish("early");
        one.connect();
        expect(await early).toEqual({ position: { epoch: "e", offset: 1 }, duplicate: false });
        expect(transports).toEqual(["websocket", "websocket", "sse"]);
        node.publish("chat:a/b", { n: 2 });
        node.publish("chat:a/b", "žluťoučký kůň");
        await until("all", () => seen.data.length === 3);
        expect(seen).toMatchObject({ data: ["early", { n: 2 }, "žluťoučký kůň"], offsets: [1, 2, 3], gaps: [] });
        expect(node.posts[0]).toMatchObject({ authorization: `Bearer ${bearer({ sub: "ada" })}` });
        await expect(one.rpc("m")).rejects.toMatchObject({ code: "unsupported", retry: false });
        await expect(one.presence("a")).rejects.toMatchObject({ code: "unsupported" });
        await expect(one.history("a")).rejects.toMatchObject({ code: "unsupported" });
        expect(one.offer("chat:a/b", 4)).toBe(true);
        await until("the offer", () => seen.data.length === 4);
    });

    test("comes at once where there is no WebSocket, or never opens one within its time", async () => {
        const node = await EventServer.start();
        const one = client(node.url, { WebSocket: undefined as never });
        vi.stubGlobal("WebSocket", undefined);
        one.connect();
        await untilConnected(one);
        vi.unstubAllGlobals();
        expect(node.upgrades).toBe(0);

        const closes: number[] = [];
        class Silent {
            readyState = 0;
            bufferedAmount = 0;
            onopen = null;
            onmessage = null;
            onclose = null;
            onerror = null;
            send() {}
            close(code: number) {
                closes.push(code);
            }
        }
        const other = client(node.url, { WebSocket: Silent, connectTimeoutMs: 100 });
        const reasons: string[] = [];
        other.on("disconnected", ({ reason }) => reasons.push(reason));
        other.connect();
        await untilConnected(other);
        expect(reasons).toEqual(["no answer", "no answer"]);
        expect(closes, "presence would take 1000 for a leave").toEqual([3000, 3000]);
    });

    test("loses and doubles nothing over streams that end and break, nor over a channel that is added", async () => {
        const node = await EventServer.start();
        const one = client(node.url, { WebSocket: undefined as never, getToken: () => bearer({ sub: "ada" }) });
        vi.stubGlobal("WebSocket", undefined);
        const a = one.subscribe<number>("a");
        const seen = record(a);
        one.connect();
        await a.ready();
        let n = 0;
        const seenB = { data: [] as number[] };
        for (const how of ["drain", "break", "drain", "break"] as const) {
            for (let i = 0; i < 5; i++) node.publish("a", ++n);
            node.end(how);
            for (let i = 0; i < 5; i++) node.publish("a", ++n);
            if (n === 20) {
                const b = one.subscribe<number>("b=,b");
                b.on("publication", ({ data }) => seenB.data.push(data));
                await b.ready();
            }
            await until("all so far", () => seen.data.length === n && one.state === "connected");
        }
        node.publish("b=,b", 1);
        node.publish("a", ++n);
        await until("the last", () => seen.data.length === n && seenB.data.length === 1);
        expect(seen.data).toEqual(Array.from({ length: n }, (_, i) => i + 1));
        expect(seen.gaps).toEqual([]);
        expect(a.position).toEqual({ epoch: "e", offset: n });
        vi.unstubAllGlobals();
    });

    test("publishes once although the answers are lost, for a user; nobody knows an anonymous one's key again", async () => {
        const node = await EventServer.start();
        const [ada, eve] = [client(node.url, { getToken: () => bearer({ sub: "ada" }) }), client(node.url)];
        for (const one of [ada, eve]) one.connect();
        await Promise.all([ada, eve].map(untilConnected));
        node.isMute = true;
        const [hers, his] = [ada.publish("a", "mine"), eve.publish("b", "his").catch(({ code }) => code as unknown)];
        await until("twice", () => node.posts.filter(({ data }) => data === "mine").length >= 2);
        node.isMute = false;
        expect(await hers).toEqual({ position: { epoch: "e", offset: 1 }, duplicate: true });
        expect(await his).toBe("unknown_outcome");
        expect(node.posts.filter(({ data }) => data === "his")).toHaveLength(1);
    });

    test("tells members, joins, leaves and gaps as they come", async () => {
        const node = await EventServer.start();
        const one = client(node.url);
        const a = one.subscribe("a", { presence: true });
        const seen = record(a);
        one.connect();
        await a.ready();
        await until("the stream", () => node.streams.size === 1);
        expect(node.queries[0]!.get("presence")).toBe("true");
        node.push({ subscribed: { channel: "a", members: [{ client: "c" }], total: 1 } });
        node.push({ join: { channel: "a", member: { client: "d" } } });
        node.push({ leave: { channel: "a", member: { client: "d" } } });
        node.push({ gap: { channel: "a", reason: "reset", position: { epoch: "f", offset: 3 } } });
        await until("the gap", () => seen.gaps.length === 1);
        expect(seen.gaps).toEqual(["reset"]);
        expect(seen.log.slice(-4)).toEqual(["members", "join", "leave", "gap"]);
        expect(a.position).toEqual({ epoch: "f", offset: 3 });
    });

    test("goes back to a WebSocket once one opens, with nothing lost", async () => {
        const node = await EventServer.start();
        const one = client(node.url, { retryWebSocketMs: 200 });
        const a = one.subscribe<number>("a");
        const seen = record(a);
        const transports: string[] = [];
        one.on("connected", ({ transport }) => transports.push(transport));
        one.connect();
        await a.ready();
        node.publish("a", 1);
        await until("the first", () => seen.data.length === 1);
        const tried = node.upgrades;
        await until("a WebSocket is tried meanwhile", () => node.upgrades > tried + 1);
        expect(one.state).toBe("connected");
        node.letsIn = true;
        let n = 1;
        await until("it is there", () => {
            node.publish("a", ++n);
            return transports.length === 2;
        });
        await until("all", () => seen.data.length === n);
        expect(transports).toEqual(["sse", "websocket"]);
        expect(seen.data).toEqual(Array.from({ length: n }, (_, i) => i + 1));
        expect(seen.gaps).toEqual([]);
        await until("the stream is closed", () => node.streams.size === 0);
    });

    test("does not go back while an answer is out: nobody would know the key again", async () => {
        const node = await EventServer.start();
        const one = client(node.url, { retryWebSocketMs: 100 });
        one.connect();
        await untilConnected(one);
        let release = () => {};
        node.held = new Promise((resolve) => (release = resolve));
        node.letsIn = true;
        const published = one.publish("a", 1);
        const tried = node.upgrades;
        await until("a WebSocket that opened", () => node.upgrades >= tried + 2, 12_000);
        release();
        expect(await published).toMatchObject({ duplicate: false });
    });

    test("leaves out the channels that are refused, whichever of several they are", async () => {
        const node = await EventServer.start();
        node.refused = new Set(["b", "d"]);
        const one = client(node.url);
        const [a, b, c] = ["a", "b", "c"].map((name) => one.subscribe<number>(name)) as [ReturnType<typeof one.subscribe<number>>, ...ReturnType<typeof one.subscribe<number>>[]];
        const seen = record(a);
        one.connect();
        await expect(b!.ready()).rejects.toMatchObject({ code: "permission_denied", message: "not b" });
        await Promise.all([a.ready(), c!.ready()]);
        const [d, e] = ["d", "e"].map((name) => one.subscribe(name));
        await expect(d!.ready()).rejects.toMatchObject({ message: "not d" });
        await e!.ready();
        node.publish("a", 1);
        await until("it goes on", () => seen.data.length === 1);
        expect(seen.gaps).toEqual([]);
    });

    test("comes back with a new token when the old one is no good any more", async () => {
        const node = await EventServer.start();
        node.token = bearer({ sub: "ada", n: 1 });
        const one = client(node.url, { getToken: () => node.token });
        const codes: number[] = [];
        one.on("disconnected", ({ code }) => codes.push(code));
        one.connect();
        await untilConnected(one);
        codes.length = 0;
        node.token = bearer({ sub: "ada", n: 2 });
        expect(await one.publish("a", 1)).toMatchObject({ duplicate: false });
        expect(node.posts).toHaveLength(1);
        const a = one.subscribe("a");
        await a.ready();
        node.token = bearer({ sub: "ada", n: 3 });
        await one.subscribe("b").ready();
        expect(codes).toEqual([4008, 4008]);
        expect(a.state).toBe("subscribed");
    });

    test("ends for good when the token is no good", async () => {
        const node = await EventServer.start();
        node.refusal = { status: 401, body: { code: "unauthenticated", detail: "no" } };
        const one = client(node.url);
        const ends: { code: number; reconnect: boolean; reason: string }[] = [];
        one.on("disconnected", (event) => ends.push(event));
        one.subscribe("a");
        one.connect();
        await until("the end", () => one.state === "closed");
        expect(ends.at(-1)).toMatchObject({ code: 4500, reason: "no", reconnect: false });
    });

    test("comes back from a status that may pass, and when the node says", async () => {
        const node = await EventServer.start();
        node.refusal = { status: 503, body: { code: "unavailable", retry: true, after_ms: 300 } };
        const one = client(node.url);
        const waits: number[] = [];
        one.on("disconnected", ({ afterMs }) => {
            waits.push(afterMs);
            if (waits.length === 3) node.refusal = undefined;
        });
        one.subscribe("a");
        one.connect();
        await untilConnected(one);
        expect(waits[2]).toBeGreaterThanOrEqual(300);
    });
});
