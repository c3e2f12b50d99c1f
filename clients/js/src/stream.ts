import { type Carrier, type Listener, parse } from "./carrier.js";
import { Parser, type StreamEvent } from "./sse.js";
import type { Position, Published, Said, WireError } from "./wire.js";

/** Longer than the comments of a node are apart, which are all that comes while nothing is published. */
const SILENCE_MS = 60_000;
/** For the answer to a POST. */
const PATIENCE_MS = 10_000;

export interface StreamOptions {
    readonly fetch: typeof fetch;
    readonly credentials: RequestCredentials | undefined;
}

type Request = { channel: string; since?: Position };
type Asked = {
    id: number;
    connect?: { token?: string; subscribe: Request[] };
    subscribe?: Request;
    unsubscribe?: { channel: string };
    publish?: object;
    refresh?: { token: string };
};

/**
 * The protocol over `GET /sse` and `POST /publish`: all channels in one stream, which is opened anew, from the positions that
 * were seen, when one is added. Publications go one after the other. Whatever else is asked is answered with `unsupported`.
 */
export class Stream implements Carrier {
    readonly kind = "sse";
    readonly #base: string;
    readonly #options: StreamOptions;
    #listener: Listener | undefined;
    #channels = new Map<string, Position | undefined>();
    #streamed = new Set<string>();
    #token: string | undefined;
    #unanswered: ((error?: WireError) => void)[] = []; // who waits for the stream that is about to be opened
    #opening: ReturnType<typeof setTimeout> | undefined;
    #abort = new AbortController();
    #posts: Promise<unknown> = Promise.resolve();
    #waiting = 0;
    #retryMs = 0;

    constructor(base: string, listener: Listener, options: StreamOptions) {
        this.#base = base;
        this.#listener = listener;
        this.#options = options;
        queueMicrotask(() => this.#listener?.opened());
    }

    get waiting(): number {
        return this.#waiting;
    }

    close(): void {
        this.#listener = undefined;
        clearTimeout(this.#opening);
        this.#abort.abort();
    }

    say(command: string): void {
        const asked = JSON.parse(command) as Asked;
        const { id } = asked;
        if (asked.connect) this.#connect(id, asked.connect);
        else if (asked.subscribe) this.#subscribe(id, asked.subscribe);
        else if (asked.unsubscribe) this.#unsubscribe(id, asked.unsubscribe.channel);
        else if (asked.publish) this.#publish(id, JSON.stringify(asked.publish));
        else if (asked.refresh) this.#refresh(id, asked.refresh.token);
        // Only a sign of life from the node answers a ping, and a stream cannot be asked for one.
        else if (!("ping" in asked)) this.#answer({ id, error: { code: "unsupported", message: "not over Server-Sent Events" } });
    }

    #connect(id: number, { token, subscribe }: { token?: string; subscribe: Request[] }): void {
        this.#token = token;
        for (const { channel, since } of subscribe) this.#channels.set(channel, since);
        this.#open(() => {
            const subscribed = subscribe.map(({ channel, since }) => outcome(channel, since));
            this.#answer({ id, connected: { client: "", node: "", ping_interval_ms: SILENCE_MS, subscribed } });
        });
    }

    #subscribe(id: number, { channel, since }: Request): void {
        this.#channels.set(channel, since);
        this.#open(() => this.#answer({ id, subscribed: outcome(channel, since) }));
    }

    #unsubscribe(id: number, channel: string): void {
        this.#channels.delete(channel);
        this.#streamed.delete(channel);
        this.#open(() => this.#answer({ id, unsubscribed: { channel } }));
    }

    #refresh(id: number, token: string): void {
        this.#token = token;
        this.#open(() => this.#answer({ id, refreshed: {} }));
    }

    // --- down: the stream ---

    // Soon, so that what is asked together is opened together.
    #open(answer: () => void): void {
        this.#unanswered.push(answer);
        clearTimeout(this.#opening);
        this.#opening = setTimeout(() => void this.#run());
    }

    async #run(): Promise<void> {
        this.#abort.abort();
        const { signal } = (this.#abort = new AbortController());
        const answers = this.#unanswered.splice(0);
        try {
            const reader = this.#channels.size > 0 ? await this.#request(signal) : undefined;
            for (const channel of this.#channels.keys()) {
                // It was on the stream before, and nobody has said yet where it is.
                if (this.#streamed.has(channel) && !this.#channels.get(channel)) this.#answer({ gap: { channel, reason: "possible" } });
                this.#streamed.add(channel);
            }
            for (const answer of answers.splice(0)) answer();
            const [decoder, parser] = [new TextDecoder(), new Parser()];
            while (reader) {
                const { value, done } = await reader.read();
                if (signal.aborted) return;
                if (done) return this.#end(1012, "the stream ended", this.#retryMs);
                this.#listener?.heard();
                for (const event of parser.push(decoder.decode(value, { stream: true }))) this.#take(event);
            }
        } catch (error) {
            // Whoever waits is answered by the stream that takes this one's place.
            if (signal.aborted) this.#unanswered.unshift(...answers);
            else if (error instanceof Refused) this.#end(error.code, error.message, error.afterMs);
            else this.#end(1006, String(error), this.#retryMs);
        }
    }

    async #request(signal: AbortSignal): Promise<ReadableStreamDefaultReader<Uint8Array> | undefined> {
        const query = new URLSearchParams();
        for (const channel of this.#channels.keys()) query.append("channel", channel);
        const since = this.#since();
        if (since) query.append("since", since);
        const headers = { accept: "text/event-stream", ...this.#authorization() };
        const response = await this.#fetch(`${this.#base}sse?${query}`, { headers, signal, cache: "no-store" });
        if (!response.ok) throw await Refused.of(response);
        return response.body?.getReader();
    }

    // As the `id` of an event writes it.
    #since(): string {
        const entries = [...this.#channels].filter(([, position]) => position);
        const text = (position?: Position) => `${position?.epoch}:${position?.offset}`;
        if (this.#channels.size === 1) return entries.map(([, position]) => text(position)).join();
        return entries.map(([channel, position]) => `${encodeURIComponent(channel)}=${text(position)}`).join();
    }

    #take({ event, data, id, retry }: StreamEvent): void {
        if (retry !== undefined) this.#retryMs = retry;
        const positions = id ? this.#positions(id) : new Map<string, Position>();
        const said = data && this.#said(event, data, positions);
        if (said) this.#answer(said);
        for (const [channel, position] of positions) {
            if (!this.#channels.has(channel)) continue;
            this.#channels.set(channel, position);
            this.#answer({ place: { channel, position } });
        }
    }

    #said(event: string, data: string, positions: Map<string, Position>): Said | undefined {
        const [only = ""] = this.#channels.keys();
        const value = json(data);
        const push = typeof value === "object" && value !== null ? (value as Said) : undefined;
        if (event === "join" || event === "leave" || event === "gap") {
            return { [event]: { channel: only, ...(push?.[event] ?? push) } };
        }
        if (this.#channels.size > 1) return push;
        // Bytes have no other way than as the whole push.
        if (push?.publication?.channel === only && typeof push.publication.data_base64 === "string") return push;
        return { publication: { channel: only, data: value, ...positions.get(only) } };
    }

    #positions(id: string): Map<string, Position> {
        const [only = ""] = this.#channels.keys();
        const positions = new Map<string, Position>();
        for (const part of id.split(",")) {
            const [, channel, epoch = "", offset] = /^(?:([^=]*)=)?([^:]*):(\d+)$/.exec(part) ?? [];
            if (offset) positions.set(channel ? decodeURIComponent(channel) : only, { epoch, offset: Number(offset) });
        }
        return positions;
    }

    // --- up: a POST each ---

    #publish(id: number, body: string): void {
        this.#waiting += body.length;
        this.#posts = this.#posts.then(async () => {
            const answer = await this.#post(body);
            this.#waiting -= body.length;
            this.#answer({ id, ...answer });
        });
    }

    async #post(body: string): Promise<{ published: Published } | { error: WireError }> {
        if (!this.#listener) return { error: { code: "lost" } };
        try {
            const headers = { "content-type": "application/json", ...this.#authorization() };
            const signal = AbortSignal.timeout(PATIENCE_MS);
            const response = await this.#fetch(`${this.#base}publish`, { method: "POST", body, headers, signal });
            if (!response.ok) return { error: (await Refused.of(response)).error };
            const answer = (await response.json()) as Published & { published?: Published };
            return { published: answer.published ?? answer };
        } catch (error) {
            return { error: { code: "unknown_outcome", message: String(error), retry: true } };
        }
    }

    #authorization(): Record<string, string> {
        return this.#token ? { authorization: `Bearer ${this.#token}` } : {};
    }

    #fetch(url: string, init: RequestInit): Promise<Response> {
        const { fetch, credentials } = this.#options;
        return fetch(url, { ...init, ...(credentials && { credentials }) });
    }

    #answer(said: Said): void {
        this.#listener?.said(said);
    }

    #end(code: number, reason: string, afterMs: number): void {
        const listener = this.#listener;
        listener?.said({ disconnect: { code, reason, reconnect: true, after_ms: afterMs } });
        this.close();
        listener?.ended(code, reason);
    }
}

// What a node says with a status.
class Refused extends Error {
    readonly code: number;
    readonly error: WireError;
    readonly afterMs: number;

    static async of(response: Response): Promise<Refused> {
        const body = parse(await response.text().catch(() => "")) as { code?: string; detail?: string; retry?: boolean; after_ms?: number } | undefined;
        return new Refused(response.status, Number(response.headers.get("retry-after")) * 1_000 || 0, body ?? {});
    }

    private constructor(status: number, afterMs: number, { code, detail, retry, after_ms }: { code?: string; detail?: string; retry?: boolean; after_ms?: number }) {
        super(detail ?? `HTTP status ${status}`);
        const isTemporary = status === 408 || status === 429 || status >= 500;
        this.code = isTemporary ? 1013 : status === 401 ? 4500 : status === 403 ? 4502 : 4504;
        this.afterMs = after_ms ?? afterMs;
        // A proxy that gives up on a node says nothing of what the node has done.
        const usual = status === 429 ? "limit" : isTemporary ? "unknown_outcome" : "bad_request";
        this.error = { code: code ?? usual, message: this.message, retry: retry ?? isTemporary, after_ms: this.afterMs };
    }
}

function outcome(channel: string, since?: Position): { channel: string; position?: Position; recovered?: boolean } {
    // That it could not be recovered comes as a gap.
    return since ? { channel, position: since, recovered: true } : { channel };
}

function json(text: string): unknown {
    try {
        return JSON.parse(text);
    } catch {
        return text;
    }
}
