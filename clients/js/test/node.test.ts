// Against a real node.
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { channel, client, node, record, token, until, untilConnected, wire } from "./support.js";

const secret = "the secret of the tests, of thirty-two bytes or more";
let dev: Awaited<ReturnType<typeof node>>;
let closed: Awaited<ReturnType<typeof node>>;

beforeAll(async () => {
    dev = await node();
    closed = await node(`
[auth.tokens]
keys = [{ alg = "HS256", secret = "${secret}" }]
leeway = "0s"
[namespaces.default]
history = { size = 100, ttl = "10m" }
subscribe = "token"
publish = "subscribers"
[limits]
publications_per_second = 0
commands_per_second = 0
`);
});

// How delays are spread is another test's; here nobody waits for one.
beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0.02));
afterEach(() => void vi.restoreAllMocks());

const tokenFor = (sub: string, seconds = 60) => token(secret, { sub, exp: Math.floor(Date.now() / 1_000) + seconds, skywave: { subscribe: ["**"] } });

describe("a node in development mode", () => {
    test("does all that there is to do", async () => {
        const name = channel();
        const [ada, bob] = [client(dev.url, { info: () => ({ name: "Ada" }) }), client(`${dev.url.replace("http", "ws")}/ws`)];
        const [hers, his] = [ada.subscribe(name, { presence: true, echo: false }), bob.subscribe<{ n: number }>(name)];
        const [seenByAda, seenByBob] = [record(hers), record(his)];
        let members = 0;
        hers.on("members", ({ total }) => (members = total));
        ada.connect();
        await hers.ready();
        bob.connect();
        await his.ready();
        expect(members).toBe(1);
        await until("Bob", () => seenByAda.log.includes("join"));

        const { position, duplicate } = await hers.publish({ n: 1 });
        expect([position?.offset, duplicate]).toEqual([1, false]);
        await his.publish({ n: 2 }, { key: "two" });
        expect(await his.publish({ n: 2 }, { key: "two" })).toMatchObject({ position: { offset: 2 }, duplicate: true });
        expect(bob.offer(name, { n: 3 })).toBe(true);
        await until("all", () => seenByBob.data.length === 3 && seenByAda.data.length === 2);
        expect([seenByBob.offsets, seenByAda.offsets]).toEqual([[1, 2, 3], [2, 3]]);

        const presence = await ada.presence(name);
        expect(presence).toMatchObject({ total: 2 });
        expect(presence.members.find(({ client }) => client === ada.id)?.info).toEqual({ name: "Ada" });
        const history = await bob.history<{ n: number }>(name, { since: position!, limit: 1 });
        expect(history).toMatchObject({ publications: [{ data: { n: 2 } }], complete: true, more: true });
        await expect(bob.rpc("nothing", {})).rejects.toMatchObject({ name: "SkywaveError", retry: false });

        his.unsubscribe();
        await until("his leave", () => seenByAda.log.includes("leave"));
        await ada.publish(name, 4);
        expect(seenByBob.data).toHaveLength(3);
    });

    test("refuses, and says why", async () => {
        const one = client(dev.url);
        one.connect();
        await expect(one.subscribe("#reserved").ready()).rejects.toMatchObject({ retry: false });
        await expect(one.publish(channel(), 1)).rejects.toMatchObject({ code: "permission_denied", retry: false });
        await expect(one.subscribe(channel()).publish("x".repeat(100_000))).rejects.toMatchObject({ code: "too_large", retry: false });
    });

    test("loses and doubles nothing over a wire that breaks again and again, and keeps the order", async () => {
        const name = channel();
        const between = await wire(dev.port);
        const [ada, bob] = [client(between.url, { fallback: false }), client(between.url, { fallback: false })];
        const his = bob.subscribe<number>(name);
        const seen = record(his);
        ada.subscribe(name);
        for (const one of [ada, bob]) {
            one.connect();
            await untilConnected(one);
        }
        const id = bob.id;
        await his.ready();
        const all = Array.from({ length: 80 }, (_, i) => i);
        const acknowledged: Promise<unknown>[] = [];
        for (const n of all) {
            acknowledged.push(ada.publish(name, n));
            // Sometimes the answers are lost and sometimes the publications.
            if (n % 20 === 5) between.isDeaf = true;
            if (n % 20 === 10) {
                const { dials } = between;
                between.cut();
                between.isDeaf = false;
                await until("Ada is back", () => between.dials >= dials + 2 && ada.state === "connected");
            }
            await until("some way", () => ada.queued < 8 || between.isDeaf);
        }
        await Promise.all(acknowledged);
        await until("all of them", () => seen.data.length >= all.length);
        expect(seen.data).toEqual(all);
        expect(seen.gaps).toEqual([]);
        expect(between.dials).toBeGreaterThan(8);
        expect(bob.id).toBe(id);
    }, 30_000);
});

describe("a node that wants tokens", () => {
    test("is given new ones before they end, and lets nobody in with an old one", async () => {
        const name = channel();
        let tokens = 0;
        const one = client(closed.url, {
            getToken: () => {
                tokens += 1;
                return tokenFor("ada", 3);
            },
        });
        const ends: number[] = [];
        one.on("disconnected", ({ code }) => ends.push(code));
        const subscription = one.subscribe(name);
        one.connect();
        await subscription.ready();
        await until("two more", () => tokens >= 3, 12_000);
        await subscription.publish(1);
        expect(ends).toEqual([]);

        const late = client(closed.url, { getToken: () => tokenFor("ada", -30) });
        late.on("disconnected", (event) => ends.push(event.code));
        late.connect();
        await until("it is told", () => ends.length > 0);
        expect(ends[0]).toBe(4008);
        expect(late.state).toBe("waiting");
    });

    test("does not see a client with a bad one again", async () => {
        const one = client(closed.url, { getToken: () => token("another secret, which is not the node's own", { sub: "eve" }) });
        const ends: { code: number; reconnect: boolean }[] = [];
        one.on("disconnected", (event) => ends.push(event));
        one.connect();
        await until("the end", () => one.state === "closed");
        expect(ends).toMatchObject([{ code: 4500, reconnect: false }]);
    });

    test("knows a user's keys also where the session was lost", async () => {
        const name = channel();
        const between = await wire(closed.port);
        const one = client(between.url, { getToken: () => tokenFor("ada"), fallback: false });
        const subscription = one.subscribe(name);
        const seen = record(subscription);
        one.connect();
        await subscription.ready();
        between.isDeaf = true;
        const published = subscription.publish("once");
        await until("the node has it", async () => {
            const other = client(closed.url, { getToken: () => tokenFor("bob") });
            other.connect();
            const { publications } = await other.history(name);
            other.close();
            return publications.length === 1;
        });
        between.cut();
        between.isDeaf = false;
        expect(await published).toMatchObject({ duplicate: true });
        await until("it came", () => seen.data.length === 1);
    });
});
