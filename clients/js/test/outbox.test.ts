import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { HIGH_WATER, MOST, MOST_CHARACTERS, Outbox, type Post } from "../src/outbox.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

interface Said {
    id: number;
    publish: { channel: string; data: unknown; key: string };
}

class Node implements Post {
    said: Said[] = [];
    waiting = 0;
    constructor(readonly publisher: string | undefined = "user ada") {}

    say(command: string): void {
        this.said.push(JSON.parse(command) as Said);
    }

    get data(): unknown[] {
        return this.said.map(({ publish }) => publish.data);
    }
}

function outbox(timeoutMs = 60_000): Outbox {
    let id = 0;
    return new Outbox(() => ++id, timeoutMs);
}

const code = (promise: Promise<unknown>) => promise.then(() => "published", ({ code }) => code as string);

describe("the outbox", () => {
    test("keeps what is published without a connection, and says it in order", async () => {
        const [box, node] = [outbox(), new Node()];
        const all = [1, 2, 3].map((n) => box.add("c", n));
        box.resume(node);
        expect(node.data).toEqual([1, 2, 3]);
        node.said.forEach(({ id }) => box.answer({ id, published: { duplicate: false } }));
        expect(await Promise.all(all)).toEqual(Array(3).fill({ duplicate: false }));
        expect(box.length).toBe(0);
    });

    test("says again after a break what had no answer, under the same key and before the rest", () => {
        const box = outbox();
        const [first, second] = [new Node(), new Node()];
        box.resume(first);
        for (const n of [1, 2, 3]) void box.add("c", n);
        box.answer({ id: first.said[1]!.id, published: { duplicate: false } });
        box.interrupt();
        void box.add("c", 4);
        box.resume(second);
        expect(second.data).toEqual([1, 3, 4]);
        const key = (said: Said) => said.publish.key;
        expect(second.said.slice(0, 2).map(key)).toEqual([key(first.said[0]!), key(first.said[2]!)]);
        expect(new Set(first.said.map(key)).size).toBe(3);
    });

    test("an answer that comes late, from the connection before, is none", () => {
        const box = outbox();
        const first = new Node();
        box.resume(first);
        void box.add("c", 1);
        box.interrupt();
        box.resume(new Node());
        expect(box.answer({ id: first.said[0]!.id, published: { duplicate: false } })).toBe(false);
        expect(box.length).toBe(1);
    });

    test.each([
        ["another client", "client a", "client b"],
        ["somebody unknown", undefined, undefined],
    ])("does not say again under a key of %s", async (_, before, after) => {
        const box = outbox();
        const [first, second] = [new Node(before), new Node(after)];
        (first as { publisher: unknown }).publisher = before;
        (second as { publisher: unknown }).publisher = after;
        box.resume(first);
        const doubtful = code(box.add("c", 1));
        box.interrupt();
        const fresh = box.add("c", 2);
        box.resume(second);
        expect(await doubtful).toBe("unknown_outcome");
        expect(second.data).toEqual([2]);
        box.answer({ id: second.said[0]!.id, published: { duplicate: false } });
        await fresh;
    });

    test("is quiet for as long as the node says", () => {
        const [box, node] = [outbox(), new Node()];
        box.resume(node);
        void box.add("c", 1);
        box.answer({ id: node.said[0]!.id, error: { code: "limit", retry: true, after_ms: 5_000 } });
        void box.add("c", 2);
        vi.advanceTimersByTime(4_999);
        expect(node.data).toEqual([1]);
        vi.advanceTimersByTime(1_001);
        expect(node.data).toEqual([1, 1, 2]);
    });

    test("what may not be is not tried again", async () => {
        const [box, node] = [outbox(), new Node()];
        box.resume(node);
        const refused = code(box.add("c", 1));
        box.answer({ id: node.said[0]!.id, error: { code: "permission_denied", retry: false } });
        expect(await refused).toBe("permission_denied");
        expect(box.length).toBe(0);
    });

    test("waits for the socket, which does not say when it has room", () => {
        const [box, node] = [outbox(), new Node()];
        node.waiting = HIGH_WATER + 1;
        box.resume(node);
        void box.add("c", 1);
        vi.advanceTimersByTime(1_000);
        expect(node.data).toEqual([]);
        node.waiting = 0;
        vi.advanceTimersByTime(20);
        expect(node.data).toEqual([1]);
    });

    test("has a bound, and tells when half of it is free again", async () => {
        const [box, node] = [outbox(), new Node()];
        for (let n = 0; n < MOST; n++) box.add("c", n).catch(() => {});
        expect(await code(box.add("c", "one more"))).toBe("queue_full");
        let isDrained = false;
        const drained = box.drained().then(() => (isDrained = true));
        box.resume(node);
        for (let n = 0; n < MOST / 2 - 1; n++) box.answer({ id: node.said[n]!.id, published: { duplicate: false } });
        await vi.advanceTimersByTimeAsync(0);
        expect(isDrained).toBe(false);
        box.answer({ id: node.said[MOST / 2 - 1]!.id, published: { duplicate: false } });
        await drained;
        box.end();
        expect(await code(box.add("c", "x".repeat(MOST_CHARACTERS)))).toBe("queue_full");
    });

    test("gives up in time, and says whether it may have arrived", async () => {
        const [box, node] = [outbox(10_000), new Node()];
        const never = code(box.add("c", 1));
        vi.advanceTimersByTime(10_000);
        expect(await never).toBe("timeout");
        box.resume(node);
        const perhaps = code(box.add("c", 2));
        vi.advanceTimersByTime(10_000);
        expect(await perhaps).toBe("unknown_outcome");
        expect(box.length).toBe(0);
    });
});
