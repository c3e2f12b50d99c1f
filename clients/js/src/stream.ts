import { type Carrier, type Listener, parse } from "./carrier.js";
import type { Position, Published, Said, Subscribed, WireError } from "./wire.js";

/** Longer than a node is silent while nothing is published. */
const SILENCE_MS = 60_000;
/** For the answer to a POST. */
const PATIENCE_MS = 10_000;
/** A line longer than this ends the stream: characters. */
export const LONGEST = 4 << 20;

export interface StreamOptions {
    readonly fetch: typeof fetch;
    readonly credentials: RequestCredentials | undefined;
}

interface Request {
    readonly channel: string;
    readonly since?: Position;
    readonly presence?: boolean;
}

interface Asked {
    readonly id: number;
    readonly connect?: { readonly token?: string; readonly subscribe: readonly Request[] };
    readonly subscribe?: Request;
    readonly unsubscribe?: { readonly channel: string };
    readonly publish?: object;
    readonly refresh?: { readonly token: string };
}

/** One channel on the stream: where it is, and who waits to be told that it began. */
interface Place {
    readonly presence: boolean;
    position: Position | undefined;
    began: ((outcome: Outcome) => void) | undefined;
}

type Outcome = Subscribed & { readonly error?: WireError };

/**
 * The protocol over `GET /sse`, as lines, and `POST /publish`: all channels in one stream, which is opened anew, from the
 * positions that were seen, when one is added. Publications go one after the other. Whatever else is asked is answered with
 * `unsupported`.
 */
export class Stream implements Carrier {
    readonly kind = "sse";
    readonly #base: string;
    readonly #options: StreamOptions;
    #listener: Listener | undefined;
    #places = new Map<string, Place>();
    #awaited = new Set<Place>(); // what the stream has not said yet where it begins
    #token: string | undefined;
    #wasGood = false; // so if it is not any more, another one may be
    #opened: (() => void)[] = []; // who waits for the stream that is about to be opened
    #opening: ReturnType<typeof setTimeout> | undefined;
    #abort = new AbortController();
    #posts: Promise<unknown> = Promise.resolve();
    #waiting = 0;
    #code = 1012; // of the end, unless the node says another

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
        const { id, connect, subscribe, unsubscribe, publish, refresh } = asked;
        if (connect) this.#connect(id, connect);
        else if (subscribe) this.#subscribe(id, subscribe);
        else if (unsubscribe) this.#unsubscribe(id, unsubscribe.channel);
        else if (publish) this.#publish(id, JSON.stringify(publish));
        else if (refresh) this.#refresh(id, refresh.token);
        // Only a sign of life from the node answers a ping, and a stream cannot be asked for one.
        else if (!("ping" in asked)) this.#tell({ id, error: { code: "unsupported", message: "not over the fallback" } });
    }

    // Answered when all channels have begun.
    #connect(id: number, { token, subscribe }: { token?: string; subscribe: readonly Request[] }): void {
        this.#token = token;
        const outcomes: Outcome[] = [];
        const connected = () => {
            this.#wasGood = true;
            this.#tell({ id, connected: { client: "", node: "", ping_interval_ms: SILENCE_MS, subscribed: outcomes } });
        };
        for (const request of subscribe) {
            this.#add(request, (outcome) => {
                if (outcomes.push(outcome) === subscribe.length) connected();
            });
        }
        this.#open(() => subscribe.length === 0 && connected());
    }

    #subscribe(id: number, request: Request): void {
        this.#add(request, ({ error, ...subscribed }) => this.#tell(error ? { id, error } : { id, subscribed }));
        this.#open();
    }

    #add({ channel, since, presence = false }: Request, began: (outcome: Outcome) => void): void {
        this.#places.set(channel, { presence, position: since, began });
    }

    #unsubscribe(id: number, channel: string): void {
        this.#places.delete(channel);
        this.#open(() => this.#tell({ id, unsubscribed: { channel } }));
    }

    #refresh(id: number, token: string): void {
        this.#token = token;
        this.#open(() => this.#tell({ id, refreshed: {} }));
    }

    // --- down: the stream ---

    // Soon, so that what is asked together is opened together.
    #open(opened: () => void = () => {}): void {
        this.#opened.push(opened);
        clearTimeout(this.#opening);
        if (this.#listener) this.#opening = setTimeout(() => void this.#run());
    }

    async #run(): Promise<void> {
        this.#abort.abort();
        const { signal } = (this.#abort = new AbortController());
        const waiting = this.#opened.splice(0);
        try {
            const reader = this.#places.size > 0 ? await this.#request(signal, [...this.#places]) : undefined;
            signal.throwIfAborted();
            this.#awaited = new Set(this.#places.values());
            for (const opened of waiting.splice(0)) opened();
            if (reader) await this.#read(reader, signal);
        } catch (error) {
            // Whoever waits is told by the stream that takes this one's place.
            this.#opened.unshift(...waiting);
            if (!signal.aborted) await this.#fail(error, signal).catch((again) => signal.aborted || this.#end(1006, String(again)));
        }
    }

    // The answer is one for all channels: which of those that are new is it that may not be?
    async #fail(error: unknown, signal: AbortSignal): Promise<void> {
        if (!(error instanceof Refused)) return this.#end(1006, String(error));
        const fresh = [...this.#places].filter(([, { began }]) => began);
        const refused: [string, Place, WireError][] = [];
        for (const [channel, place] of error.isForAll ? [] : fresh) {
            const why = fresh.length === 1 ? error : await this.#request(signal, [[channel, place]]).then((reader) => void reader?.cancel(), (one: unknown) => one);
            if (why instanceof Refused && !why.isForAll) refused.push([channel, place, why.error]);
        }
        signal.throwIfAborted();
        const code = error.closeCode === 4500 && this.#wasGood ? 4008 : error.closeCode;
        if (refused.length === 0) return this.#end(code, error.message, error.error.after_ms);
        for (const [channel, place, why] of refused) {
            this.#places.delete(channel);
            place.began?.({ channel, error: why });
        }
        this.#open();
    }

    async #request(signal: AbortSignal, places: [string, Place][]): Promise<ReadableStreamDefaultReader<Uint8Array> | undefined> {
        const query = new URLSearchParams();
        for (const [channel] of places) query.append("channel", channel);
        if (places.some(([, { presence }]) => presence)) query.set("presence", "true");
        const since = places.flatMap(([channel, { position }]) => (position ? `${written(channel)}=${position.epoch}:${position.offset}` : []));
        if (since.length > 0) query.set("since", since.join());
        const headers = { accept: "application/x-ndjson", ...this.#authorization() };
        const response = await this.#fetch(`${this.#base}sse?${query}`, { headers, signal, cache: "no-store" });
        if (!response.ok) throw await Refused.of(response);
        return response.body?.getReader();
    }

    async #read(reader: ReadableStreamDefaultReader<Uint8Array>, signal: AbortSignal): Promise<void> {
        const decoder = new TextDecoder();
        for (let rest = ""; ; ) {
            const { value, done } = await reader.read();
            signal.throwIfAborted();
            if (done) return this.#end(this.#code, "the stream ended");
            this.#listener?.heard();
            const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
            rest = lines.pop() as string;
            if (rest.length > LONGEST) throw new RangeError("a line is too long");
            for (const line of lines) {
                const said = line && parse(line);
                if (said) this.#take(said);
                // A handler may have asked for another stream, which comes from the same positions.
                signal.throwIfAborted();
            }
        }
    }

    #take(said: Said): void {
        const { subscribed, publication, gap, disconnect } = said;
        if (disconnect) this.#code = disconnect.code;
        const place = this.#places.get((subscribed ?? publication ?? gap)?.channel ?? "");
        if (subscribed && place && this.#awaited.delete(place)) return this.#begin(place, subscribed);
        if (place && publication?.epoch !== undefined && publication.offset !== undefined) place.position = publication as Position;
        if (place && gap?.position) place.position = gap.position;
        this.#tell(said);
    }

    // A channel that had begun before, on an earlier stream of this connection, goes on.
    #begin(place: Place, subscribed: Subscribed): void {
        const { began, position: before } = place;
        const { channel, position, recovered, publications = [], members, total, next } = subscribed;
        place.began = undefined;
        place.position = position ?? before;
        if (began) return began(subscribed);
        if (!recovered) this.#tell({ gap: { channel, reason: before ? "not_recovered" : "possible", ...(position && { position }) } });
        for (const publication of publications) this.#tell({ publication: { ...publication, channel } });
        if (members) this.#tell({ subscribed: { channel, members, ...(total !== undefined && { total }), ...(next !== undefined && { next }) } });
    }

    // --- up: a POST each ---

    #publish(id: number, body: string): void {
        this.#waiting += body.length;
        this.#posts = this.#posts.then(async () => {
            const answer = await this.#post(body);
            this.#waiting -= body.length;
            this.#tell({ id, ...answer });
            // It is said again with the next token, over the connection that comes for it.
            if ("error" in answer && answer.error.code === "unauthenticated") this.#end(4008, answer.error.message ?? "");
        });
    }

    async #post(body: string): Promise<{ published: Published } | { error: WireError }> {
        if (!this.#listener) return { error: { code: "lost" } };
        try {
            const headers = { "content-type": "application/json", ...this.#authorization() };
            const signal = AbortSignal.timeout(PATIENCE_MS);
            const response = await this.#fetch(`${this.#base}publish`, { method: "POST", body, headers, signal });
            if (response.ok) return { published: (await response.json()) as Published };
            const { error } = await Refused.of(response);
            return { error: response.status === 401 ? { ...error, code: "unauthenticated", retry: true } : error };
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

    #tell(said: Said): void {
        this.#listener?.said(said);
    }

    #end(code: number, reason: string, after_ms = 0): void {
        const listener = this.#listener;
        if (after_ms) this.#tell({ disconnect: { code, reason, reconnect: true, after_ms } });
        this.close();
        listener?.ended(code, reason);
    }
}

// As an `id` of a node's events has it.
function written(channel: string): string {
    const escaped = (text: string) => encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
    return channel.replace(/[^\w.~:#-]+/g, escaped);
}

interface Problem {
    readonly code?: string;
    readonly detail?: string;
    readonly retry?: boolean;
    readonly after_ms?: number;
    readonly position?: Position;
}

// What a node, or a proxy in front of it, says with a status.
class Refused extends Error {
    readonly closeCode: number;
    /** Not because of a channel. */
    readonly isForAll: boolean;
    readonly error: WireError;

    static async of(response: Response): Promise<Refused> {
        const after = Number(response.headers.get("retry-after")) * 1_000 || 0;
        return new Refused(response.status, after, (parse(await response.text().catch(() => "")) ?? {}) as Problem);
    }

    private constructor(status: number, afterMs: number, { code, detail, retry, after_ms = afterMs, position }: Problem) {
        super(detail ?? `HTTP status ${status}`);
        const isTemporary = status === 408 || status === 429 || status >= 500;
        this.isForAll = isTemporary || status === 401;
        this.closeCode = isTemporary ? 1013 : status === 401 ? 4500 : status === 403 ? 4502 : 4504;
        // A proxy that gives up on a node says nothing of what the node has done.
        const usual = status === 429 ? "limit" : isTemporary ? "unknown_outcome" : "bad_request";
        this.error = { code: code ?? usual, message: this.message, retry: retry ?? isTemporary, after_ms, ...(position && { position }) };
    }
}
