import { delay } from "./backoff.js";
import { failure, SkywaveError } from "./error.js";
import type { Published, Said } from "./wire.js";

export interface PublishOptions {
    /**
     * Instead of one that the client makes: the same key within five minutes is published once, also over a page that was
     * loaded again (for the same user).
     */
    readonly key?: string;
}

/** Publications that wait or have no answer yet: so many, and of so many characters of JSON. */
export const MOST = 1_000;
export const MOST_CHARACTERS = 1 << 20;
/** Without an answer yet, at the same time. */
const IN_FLIGHT = 64;
/** Bytes that may stand in the socket before more is said. */
export const HIGH_WATER = 64 << 10;
/** How often a full socket is looked at: it does not say when it has room again. */
const LOOK_MS = 20;

interface Letter {
    readonly channel: string;
    readonly body: string; // channel, data and key as JSON, so that what is sent again is the same
    id: number | undefined; // while it is in flight
    by: string | undefined; // the publisher whose key it is, once it was said
    isDoubtful: boolean; // it was said, and may have arrived
    deadline: ReturnType<typeof setTimeout>;
    resolve(published: Published): void;
    reject(error: SkywaveError): void;
}

/** What carries the letters: the connection as it is now. */
export interface Post {
    /** Whose keys the node takes ours for; undefined when they hold for one connection only. */
    readonly publisher: string | undefined;
    readonly waiting: number;
    say(command: string): void;
}

/**
 * Publications until they are acknowledged: sent again, always with the same key, over as many connections as it takes. In the
 * order of `publish`, but for one that the node refused for the moment and takes later.
 *
 * Bound: `MOST` and `MOST_CHARACTERS`; full: `add` rejects with `queue_full`. Emptied by the node's answers, and by each
 * letter's own deadline, which is shorter than the node remembers a key.
 */
export class Outbox {
    #letters: Letter[] = []; // oldest first
    #characters = 0;
    #post: Post | undefined;
    #quietUntil = 0;
    #refusals = 0;
    #wake: ReturnType<typeof setTimeout> | undefined;
    #drained: (() => void)[] = [];
    #prefix = "";
    #keys = 0;
    readonly #nextId: () => number;
    readonly #timeoutMs: number;

    constructor(nextId: () => number, timeoutMs: number) {
        this.#nextId = nextId;
        this.#timeoutMs = timeoutMs;
    }

    get inFlight(): number {
        return this.#letters.filter(({ id }) => id !== undefined).length;
    }

    get length(): number {
        return this.#letters.length;
    }

    add(channel: string, data: unknown, key = this.#newKey()): Promise<Published> {
        const body = JSON.stringify({ channel, data: data ?? null, key });
        if (this.#letters.length >= MOST || this.#characters + body.length > MOST_CHARACTERS) {
            return Promise.reject(failure("queue_full", `${this.#letters.length} publications wait already`));
        }
        return new Promise((resolve, reject) => {
            const deadline = setTimeout(() => this.#expire(letter), this.#timeoutMs);
            const letter: Letter = { channel, body, id: undefined, by: undefined, isDoubtful: false, deadline, resolve, reject };
            this.#letters.push(letter);
            this.#characters += body.length;
            this.#pump();
        });
    }

    /** Resolves once less than half of what may wait does. */
    drained(): Promise<void> {
        return new Promise((resolve) => {
            this.#drained.push(resolve);
            this.#tellDrained();
        });
    }

    /** There is a connection. What another publisher's key was on is not said again: the node would not know it. */
    resume(post: Post): void {
        this.#post = post;
        this.#quietUntil = 0;
        for (const letter of [...this.#letters]) {
            if (letter.isDoubtful && (!letter.by || letter.by !== post.publisher)) this.#reject(letter, doubt());
        }
        this.#pump();
    }

    /** There is none any more: whatever has no answer may have arrived or not. */
    interrupt(): void {
        this.#post = undefined;
        for (const letter of this.#letters) this.#land(letter, true);
    }

    /** There will be none. */
    end(): void {
        this.interrupt();
        for (const letter of [...this.#letters]) {
            this.#reject(letter, letter.isDoubtful ? doubt() : failure("closed", "the client is closed"));
        }
    }

    /** Whether it was the answer to one of ours. */
    answer({ id, published, error }: Said): boolean {
        const letter = this.#letters.find((one) => one.id !== undefined && one.id === id);
        if (!letter) return false;
        this.#land(letter, error?.code === "unknown_outcome");
        if (published) {
            this.#refusals = 0;
            this.#remove(letter);
            letter.resolve(published);
        } else if (letter.isDoubtful && !this.#post?.publisher) {
            this.#reject(letter, doubt()); // nobody would know the key again
        } else if (error?.retry) {
            this.#quietUntil = Date.now() + delay(this.#refusals++, error.after_ms ?? 0, Math.random());
        } else {
            this.#reject(letter, new SkywaveError(error ?? { code: "internal" }));
        }
        this.#pump();
        return true;
    }

    #pump(): void {
        clearTimeout(this.#wake);
        const quiet = this.#quietUntil - Date.now();
        if (quiet > 0) {
            this.#wake = setTimeout(() => this.#pump(), quiet);
            return;
        }
        let room = IN_FLIGHT - this.inFlight;
        for (const letter of this.#letters) {
            if (!this.#post || room <= 0) return;
            if (letter.id !== undefined) continue;
            if (this.#post.waiting > HIGH_WATER) {
                this.#wake = setTimeout(() => this.#pump(), LOOK_MS);
                return;
            }
            room--;
            letter.id = this.#nextId();
            letter.by = this.#post.publisher;
            this.#post.say(`{"id":${letter.id},"publish":${letter.body}}`);
        }
    }

    #land(letter: Letter, mayHaveArrived: boolean): void {
        if (letter.id === undefined) return;
        letter.id = undefined;
        letter.isDoubtful ||= mayHaveArrived;
    }

    #expire(letter: Letter): void {
        const wasSaid = letter.isDoubtful || letter.id !== undefined;
        this.#reject(letter, wasSaid ? doubt() : failure("timeout", "not sent in time"));
    }

    #reject(letter: Letter, error: SkywaveError): void {
        this.#remove(letter);
        letter.reject(error);
    }

    #remove(letter: Letter): void {
        clearTimeout(letter.deadline);
        this.#letters = this.#letters.filter((other) => other !== letter);
        this.#characters -= letter.body.length;
        this.#tellDrained();
    }

    #tellDrained(): void {
        if (this.#letters.length > MOST / 2 || this.#characters > MOST_CHARACTERS / 2) return;
        for (const tell of this.#drained.splice(0)) tell();
    }

    // Random enough to be nobody else's. (crypto.randomUUID is not there on a page that came over http from afar.)
    #newKey(): string {
        this.#prefix ||= [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(36)).join("");
        return `${this.#prefix}-${(this.#keys++).toString(36)}`;
    }
}

const doubt = () => failure("unknown_outcome", "it may have arrived, and to send it again could double it", false);
