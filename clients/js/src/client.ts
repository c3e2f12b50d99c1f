import { delay, mayReconnect } from "./backoff.js";
import type { Carrier, Listener } from "./carrier.js";
import { Emitter } from "./emitter.js";
import { failure, SkywaveError } from "./error.js";
import { HIGH_WATER, Outbox, type PublishOptions } from "./outbox.js";
import { Stream } from "./stream.js";
import { type SubscribeOptions, Subscription } from "./subscription.js";
import { Socket, type WebSocketClass } from "./websocket.js";
import type { Connected, HistoryPage, MemberPage, Position, Published, Said, WireError } from "./wire.js";

export interface ClientOptions {
    /** Asked before each connect, before the token expires, and after it has. Rejects: tried again, unless the error has `retry: false`. */
    readonly getToken?: () => string | null | undefined | Promise<string | null | undefined>;
    /** What presence shows of this client; nodes in development mode only take it. */
    readonly info?: () => unknown;
    /** Needed where there is none of its own: `import { WebSocket } from "ws"` with Node.js before 22. */
    readonly WebSocket?: WebSocketClass;
    /** `false`: never anything but a WebSocket. Default: true. */
    readonly fallback?: boolean;
    /** Where to get `fetch` from, for the fallback. */
    readonly fetch?: typeof fetch;
    /** Of the fallback's requests; `include` for cookies to another origin. */
    readonly credentials?: RequestCredentials;
    /** From the dial to the answer. Default: 10,000 milliseconds. */
    readonly connectTimeoutMs?: number;
    /** For a pong, behind a silence as long as the node's `ping_interval_ms`. Default: 10,000. */
    readonly pongTimeoutMs?: number;
    /** For presence, history and rpc, the wait for a connection included. Default: 10,000. */
    readonly requestTimeoutMs?: number;
    /** After so long a publication without an acknowledgement is given up. Default: 120,000, at most 270,000: a node forgets keys. */
    readonly publishTimeoutMs?: number;
    /** On the fallback: how often a WebSocket is tried again, give or take a half. Default: 60,000. */
    readonly retryWebSocketMs?: number;
}

export interface ClientEvents {
    connecting: { readonly transport: "websocket" | "sse" };
    connected: { readonly client: string; readonly node: string; readonly transport: "websocket" | "sse" };
    /** `reconnect`: it comes back by itself, in `afterMs`. Otherwise `connect` has to be called again. */
    disconnected: { readonly code: number; readonly reason: string; readonly reconnect: boolean; readonly afterMs: number };
    /** The node has lost sight of the others, or sees them again. */
    backplane: { readonly state: "ok" | "degraded" };
    /** A subscription that this client did not ask for: by its token, or by a back end. */
    subscription: Subscription;
    /** What nobody waits for: a refused `offer`, a token that could not be had. */
    error: SkywaveError;
}

export type State = "idle" | "connecting" | "connected" | "waiting" | "closed";

type Timer = ReturnType<typeof setTimeout> | undefined;
type Waiting = { resolve(said: Said): void; reject(error: SkywaveError): void };

/** Connections that never opened, in a row, before the fallback: at first, and for whom a WebSocket has worked before. */
const FAILURES = 2;
const FAILURES_AFTER_SUCCESS = 5;
/** A connection that lived shorter counts as an attempt that failed: milliseconds. */
const SETTLED_MS = 5_000;
/** What can be asked and not answered yet. */
const MOST_REQUESTS = 1_000;
/** The longest that a timer can be set to. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * A client of Skywave nodes: one connection that comes back, any number of subscriptions.
 *
 * Nothing happens before `connect`; subscriptions and publications made before, or while the connection is away, wait for it.
 */
export class Client extends Emitter<ClientEvents> {
    readonly #base: URL;
    readonly #options: ClientOptions;
    readonly #subscriptions = new Map<string, Subscription<never>>();
    readonly #requests = new Map<number, Waiting>();
    readonly #unconnected = new Set<{ resolve(): void; reject(error: SkywaveError): void }>();
    readonly #outbox: Outbox;
    #state: State = "idle";
    #carrier: Carrier | undefined;
    #attempt: object = {}; // the one that counts; what others hear is late
    #connected: Connected | undefined;
    #openedAt = 0;
    #session: string | undefined;
    #token: string | undefined;
    #farewell: { reconnect: boolean; reason: string; afterMs: number } | undefined;
    #lastId = 0;
    #greeting = 0; // the id of `connect`
    #isOpen = false;
    readonly #left = new Set<string>(); // unsubscribed since the greeting
    #heardAt = 0;
    #pingedAt = 0;
    #failures = 0;
    #unopened = 0; // WebSockets in a row that never opened
    #hasOpened = false; // a WebSocket, ever
    #retry: Timer;
    #patience: Timer;
    #beat: Timer;
    #refresh: Timer;
    #probe: Timer;
    #candidate: Carrier | undefined; // a WebSocket that is tried while the fallback works

    /** `url` is that of the node or balancer: `https://example.com`, `wss://example.com/ws`, or relative to the page's. */
    constructor(url: string | URL, options: ClientOptions = {}) {
        super();
        this.#base = new URL(url, globalThis.location?.href);
        this.#base.protocol = this.#base.protocol.replace("ws", "http");
        this.#base.pathname = this.#base.pathname.replace(/\/(ws)?$/, "") + "/";
        this.#options = options;
        this.#outbox = new Outbox(() => ++this.#lastId, Math.min(options.publishTimeoutMs ?? 120_000, 270_000));
    }

    get state(): State {
        return this.#state;
    }

    /** How the node knows this client; kept over reconnects. */
    get id(): string | undefined {
        return this.#connected?.client || undefined;
    }

    /** Publications without an acknowledgement. At most 1,000, and 1 MiB of JSON. */
    get queued(): number {
        return this.#outbox.length;
    }

    /** Bytes that were said and have not left yet. */
    get bufferedAmount(): number {
        return this.#carrier?.waiting ?? 0;
    }

    /** Whether an `offer` would go out now. */
    get isWritable(): boolean {
        return this.#connected !== undefined && this.bufferedAmount <= HIGH_WATER;
    }

    /** Connects, and stays connected until `close` or a node says not to come back. */
    connect(): void {
        if (this.#state === "idle" || this.#state === "closed") {
            this.#failures = this.#unopened = 0;
            void this.#dial();
        }
    }

    /** Leaves for good: presence sees it at once. What waits is rejected; subscriptions are recovered by another `connect`. */
    close(): void {
        this.#drop(1000);
        this.#finish();
    }

    /** The subscription to this channel: one for each channel, whose options are those of the first call. */
    subscribe<T = unknown>(channel: string, options: SubscribeOptions = {}): Subscription<T> {
        const known = this.#subscriptions.get(channel);
        if (known) return known as unknown as Subscription<T>;
        const subscription = new Subscription<T>(this.#owner, channel, options);
        this.#subscriptions.set(channel, subscription as unknown as Subscription<never>);
        if (this.#connected) void this.#ask(subscription as unknown as Subscription<never>);
        return subscription;
    }

    /**
     * Publishes exactly once: sent again after a broken connection, under the same key, until a node acknowledges it. It waits
     * while there is no connection, or the socket is full.
     *
     * Rejects with a `SkywaveError`: `queue_full` at once when 1,000 publications or 1 MiB wait; `timeout`, never sent;
     * `unknown_outcome`, perhaps published; or what the node says.
     */
    publish(channel: string, data: unknown, { key }: PublishOptions = {}): Promise<Published> {
        if (this.#state === "closed") return Promise.reject(failure("closed", "the client is closed"));
        return this.#outbox.add(channel, data, key);
    }

    /** Resolves once less than half of what may wait to be published does: for whoever has much to publish. */
    drained(): Promise<void> {
        return this.#outbox.drained();
    }

    /** Publishes now or never: `false` if it cannot go out at once. Nothing tells whether it arrived. For places of a pointer and the like. */
    offer(channel: string, data: unknown): boolean {
        if (!this.isWritable) return false;
        // Over HTTP everything has an answer.
        const id = this.#carrier?.kind === "sse" ? ++this.#lastId : undefined;
        this.#say({ id, publish: { channel, data } });
        return true;
    }

    /** Who is on a channel, 1,000 a page. */
    async presence(channel: string, { after }: { after?: string } = {}): Promise<MemberPage> {
        return (await this.#request({ presence: { channel, after } })).presence as MemberPage;
    }

    /** What was published on a channel: after `since`, or the newest. `limit`: 100 by default, at most 1,000; 0 asks for the position alone. */
    async history<T = unknown>(channel: string, { since, limit }: { since?: Position; limit?: number } = {}): Promise<HistoryPage<T>> {
        return (await this.#request({ history: { channel, since, limit } })).history as HistoryPage<T>;
    }

    /** Calls the back end. With `lost` and `timeout` it may have been called. */
    async rpc<T = unknown>(method: string, data?: unknown): Promise<T> {
        return (await this.#request({ rpc: { method, data } })).result?.data as T;
    }

    // --- a connection begins ---

    async #dial(): Promise<void> {
        const attempt = (this.#attempt = {});
        this.#state = "connecting";
        this.#farewell = undefined;
        const kind = this.#choose();
        this.emit("connecting", { transport: kind });
        const timeoutMs = this.#options.connectTimeoutMs ?? 10_000;
        this.#patience = setTimeout(() => this.#lose(1006, "no answer", true), timeoutMs);
        try {
            this.#token = (await this.#options.getToken?.()) ?? undefined;
        } catch (error) {
            if (attempt === this.#attempt) this.#tokenless(error);
            return;
        }
        if (attempt === this.#attempt) this.#carry(kind, attempt);
    }

    #carry(kind: "websocket" | "sse", attempt: object): void {
        try {
            this.#carrier = kind === "sse" ? this.#stream(this.#listener(attempt)) : this.#socket(this.#listener(attempt));
        } catch (error) {
            this.#farewell = { reconnect: false, reason: "", afterMs: 0 };
            this.#lose(1006, String(error));
        }
    }

    // A WebSocket, until it seems that none will open; then in turns.
    #choose(): "websocket" | "sse" {
        if (this.#options.fallback === false) return "websocket";
        if (!this.#class) return "sse";
        const limit = this.#hasOpened ? FAILURES_AFTER_SUCCESS : FAILURES;
        return this.#unopened >= limit && (this.#unopened - limit) % 2 === 0 ? "sse" : "websocket";
    }

    get #class(): WebSocketClass | undefined {
        return this.#options.WebSocket ?? (globalThis.WebSocket as WebSocketClass | undefined);
    }

    #socket(listener: Listener): Carrier {
        if (!this.#class) throw new Error("there is no WebSocket here: give one in options.WebSocket");
        const url = new URL("ws", this.#base);
        url.search = this.#base.search;
        url.protocol = url.protocol.replace("http", "ws");
        return new Socket(this.#class, url.href, listener);
    }

    #stream(listener: Listener): Carrier {
        // As a method of ours it would not be called on the window, which browsers insist on.
        const fetcher = this.#options.fetch ?? globalThis.fetch.bind(globalThis);
        const base = new URL(".", this.#base).href;
        return new Stream(base, listener, { fetch: fetcher, credentials: this.#options.credentials });
    }

    #listener(attempt: object): Listener {
        const ifCurrent = (act: () => void) => attempt === this.#attempt && act();
        return {
            opened: () => ifCurrent(() => void this.#greet(attempt)),
            heard: () => ifCurrent(() => this.#hear()),
            said: (said) => ifCurrent(() => this.#take(said)),
            ended: (code, reason) => ifCurrent(() => this.#lose(code, reason)),
        };
    }

    // Who we are and all that we were subscribed to, in one command.
    async #greet(attempt: object): Promise<void> {
        this.#isOpen = true;
        if (this.#carrier?.kind === "websocket") {
            this.#hasOpened = true;
            this.#unopened = 0;
        }
        const asked = [...this.#subscriptions.values()];
        this.#left.clear();
        const tokens = await Promise.all(asked.map(async ({ channel, options }) => options.getToken?.(channel)).map((token) => token.catch(() => null)));
        if (attempt !== this.#attempt) return;
        this.#greeting = ++this.#lastId;
        // One whose token could not be had is asked for afterwards.
        const subscribe = asked.flatMap((subscription, i) => (tokens[i] === null ? [] : subscription.request(tokens[i])));
        const connect = { token: this.#token, session: this.#session, info: this.#options.info?.(), subscribe };
        this.#say({ id: this.#greeting, connect });
    }

    #welcome(connected: Connected): void {
        const carrier = this.#carrier as Carrier;
        clearTimeout(this.#patience);
        this.#connected = connected;
        this.#session = connected.session ?? this.#session;
        this.#state = "connected";
        this.#openedAt = this.#heardAt = Date.now();
        this.#beat = setInterval(() => this.#check(), 1_000);
        this.#expireIn(connected.expires_in_ms);
        if (carrier.kind === "sse") this.#probeLater();
        const { client, node } = connected;
        this.emit("connected", { client, node, transport: carrier.kind });
        const attempt = this.#attempt;
        const answered = new Set<string>();
        for (const outcome of connected.subscribed ?? []) {
            if (attempt !== this.#attempt) return; // a handler closed us
            if (this.#left.delete(outcome.channel)) {
                this.#leave(outcome.channel);
                continue;
            }
            answered.add(outcome.channel);
            if (outcome.error) this.#refused(outcome.channel, outcome.error);
            else this.#subscribed(outcome);
        }
        for (const subscription of this.#subscriptions.values()) {
            // Made since the greeting, or its token could not be had.
            if (subscription.state === "subscribing" && !answered.has(subscription.channel)) void this.#ask(subscription);
        }
        if (attempt !== this.#attempt) return;
        for (const one of this.#unconnected) one.resolve();
        this.#unconnected.clear();
        const user = userOf(this.#token);
        const publisher = user !== undefined ? `user ${user}` : client ? `client ${client}` : undefined;
        this.#outbox.resume({ publisher, say: (command) => carrier.say(command), get waiting() { return carrier.waiting; } });
    }

    // --- what comes ---

    #hear(): void {
        this.#heardAt = Date.now();
        this.#pingedAt = 0;
    }

    #take(said: Said): void {
        const { id } = said;
        if (id !== undefined && this.#answered(id, said)) return;
        if (said.publication) this.#at(said.publication)?.take(said.publication as never);
        else if (said.join) this.#present(said.join)?.emit("join", said.join.member);
        else if (said.leave) this.#present(said.leave)?.emit("leave", said.leave.member);
        else if (said.gap) this.#at(said.gap)?.lose(said.gap);
        else if (said.subscribed) this.#subscribed(said.subscribed);
        else if (said.unsubscribed) this.#unsubscribed(said.unsubscribed.channel, said.unsubscribed.reason ?? "unsubscribed");
        else if (said.backplane) this.emit("backplane", said.backplane);
        else if (said.disconnect) this.#bye(said.disconnect);
        else if (said.error) this.emit("error", new SkywaveError(said.error));
    }

    #answered(id: number, said: Said): boolean {
        if (id === this.#greeting) {
            if (said.connected) this.#welcome(said.connected);
            else if (said.error) this.#unwelcome(said.error);
            return true;
        }
        const request = this.#requests.get(id);
        this.#requests.delete(id);
        if (!request) return this.#outbox.answer(said) || said.error === undefined;
        if (said.error) request.reject(new SkywaveError(said.error));
        else request.resolve(said);
        return true;
    }

    // The close frame that follows says whether to come back; without one, the error does.
    #unwelcome(error: WireError): void {
        this.emit("error", new SkywaveError(error));
        this.#farewell = { reconnect: true, reason: error.message ?? error.code, afterMs: error.after_ms ?? 0 };
        clearTimeout(this.#patience);
        this.#patience = setTimeout(() => this.#lose(error.retry ? 1011 : 4504, error.code), 1_000);
    }

    #bye({ reconnect, reason, after_ms = 0 }: { reconnect: boolean; reason: string; after_ms?: number }): void {
        this.#farewell = { reconnect, reason, afterMs: after_ms };
    }

    #at({ channel }: { channel: string }): Subscription<never> | undefined {
        return this.#subscriptions.get(channel);
    }

    #present(event: { channel: string }): Subscription<never> | undefined {
        const subscription = this.#at(event);
        return subscription?.options.presence ? subscription : undefined;
    }

    // --- subscriptions ---

    readonly #owner = {
        publish: (channel: string, data: unknown, options?: PublishOptions) => this.publish(channel, data, options),
        unsubscribe: (channel: string) => {
            if (this.#connected) this.#leave(channel);
            else this.#left.add(channel); // the greeting may have named it
            this.#unsubscribed(channel, "unsubscribed");
        },
    };

    #leave(channel: string): void {
        this.#request({ unsubscribe: { channel } }).catch(() => {});
    }

    async #ask(subscription: Subscription<never>): Promise<void> {
        const { channel } = subscription;
        try {
            // Without one it is said at once: what is published there next is to come behind it.
            const { getToken } = subscription.options;
            const subscribe = subscription.request(getToken && (await getToken(channel)));
            const isWanted = () => this.#at(subscription) === subscription && subscription.state === "subscribing";
            if (!isWanted() || !this.#connected) return;
            await this.#request({ subscribe }, ({ subscribed }) => {
                if (subscribed && isWanted()) subscription.begin(subscribed);
            });
        } catch (error) {
            if (this.#at(subscription) !== subscription) return;
            if (!(error instanceof SkywaveError)) this.#refused(channel, { code: "unauthenticated", message: String(error), retry: true });
            else if (error.code !== "lost") this.#refused(channel, { code: error.code, message: error.message, retry: error.retry, after_ms: error.afterMs });
        }
    }

    // Without an answer to it: from `connected`, or by a back end, or the list of members anew.
    #subscribed(subscribed: { readonly channel: string }): void {
        const known = this.#at(subscribed);
        if (known?.state === "subscribed") return known.list(subscribed);
        if (known) return known.begin(subscribed as never);
        const subscription = new Subscription<never>(this.#owner, subscribed.channel, {});
        this.#subscriptions.set(subscribed.channel, subscription);
        this.emit("subscription", subscription as unknown as Subscription);
        subscription.begin(subscribed);
    }

    #refused(channel: string, error: WireError): void {
        const subscription = this.#subscriptions.get(channel);
        if (!subscription || subscription.state === "ended") return;
        if (!error.retry) return this.#unsubscribed(channel, error.code, error);
        const attempt = this.#attempt;
        setTimeout(() => {
            // A new connection asks by itself.
            if (attempt === this.#attempt && subscription.state === "subscribing") void this.#ask(subscription);
        }, delay(subscription.refusals++, error.after_ms ?? 0, Math.random()));
    }

    #unsubscribed(channel: string, reason: string, error?: WireError): void {
        const subscription = this.#subscriptions.get(channel);
        this.#subscriptions.delete(channel);
        subscription?.end(reason, error);
    }

    // --- requests ---

    // `answered` is called at once, and not in a later turn as whoever awaits: what follows in the same frame builds on it.
    async #request(command: object, answered: (said: Said) => void = () => {}): Promise<Said> {
        const timeoutMs = this.#options.requestTimeoutMs ?? 10_000;
        if (this.#requests.size + this.#unconnected.size >= MOST_REQUESTS) throw failure("queue_full", "too many requests without an answer");
        let timer: Timer;
        let forget = () => {};
        const late = new Promise<never>((_, reject) => {
            timer = setTimeout(() => reject(failure("timeout", `no answer within ${timeoutMs} ms`)), timeoutMs);
        });
        const answer = async () => {
            if (!this.#connected) {
                await new Promise<void>((resolve, reject) => {
                    if (this.#state === "closed") return reject(failure("closed", "the client is closed"));
                    const one = { resolve, reject };
                    this.#unconnected.add(one);
                    forget = () => this.#unconnected.delete(one);
                });
            }
            const id = ++this.#lastId;
            return new Promise<Said>((resolve, reject) => {
                this.#requests.set(id, { resolve: (said) => resolve((answered(said), said)), reject });
                forget = () => this.#requests.delete(id);
                this.#say({ id, ...command });
            });
        };
        return Promise.race([answer(), late]).finally(() => {
            clearTimeout(timer);
            forget();
        });
    }

    #say(command: object): void {
        this.#carrier?.say(JSON.stringify(command));
    }

    // --- time ---

    // A browser does not show WebSocket pings, so silence is noticed here.
    #check(): void {
        const now = Date.now();
        if (this.#pingedAt && now - this.#pingedAt > (this.#options.pongTimeoutMs ?? 10_000)) {
            this.#lose(1006, "silence", true);
        } else if (!this.#pingedAt && now - this.#heardAt > (this.#connected?.ping_interval_ms ?? Infinity)) {
            this.#pingedAt = now;
            this.#say({ id: ++this.#lastId, ping: {} });
        }
    }

    // Before the token ends: not all clients at once, and with time left for a second try.
    #expireIn(ms: number | undefined): void {
        clearTimeout(this.#refresh);
        if (ms === undefined || !this.#options.getToken) return;
        this.#refresh = setTimeout(() => void this.#renew(ms), Math.min(ms * (0.7 + 0.15 * Math.random()), LONGEST_TIMER_MS));
    }

    async #renew(lifeMs: number): Promise<void> {
        const attempt = this.#attempt;
        try {
            const token = await this.#options.getToken?.();
            if (!token || attempt !== this.#attempt) return;
            const { refreshed } = await this.#request({ refresh: { token } });
            this.#token = token;
            this.#expireIn(refreshed?.expires_in_ms);
        } catch (error) {
            if (attempt !== this.#attempt) return;
            this.emit("error", error instanceof SkywaveError ? error : failure("unauthenticated", String(error)));
            // Should none of these succeed, 4008 ends the connection, and the next one asks for a token anew.
            this.#refresh = setTimeout(() => void this.#renew(lifeMs), Math.max(1_000, lifeMs / 20));
        }
    }

    // The fallback works; a WebSocket would be better. It takes over once it has opened.
    #probeLater(ms = (this.#options.retryWebSocketMs ?? 60_000) * (0.5 + Math.random())): void {
        clearTimeout(this.#probe);
        this.#candidate?.close(1000);
        this.#candidate = undefined;
        if (this.#class) this.#probe = setTimeout(() => this.#tryWebSocket(), ms);
    }

    #tryWebSocket(): void {
        this.#probe = setTimeout(() => this.#probeLater(), this.#options.connectTimeoutMs ?? 10_000);
        const next = {};
        const listener = this.#listener(next);
        const opened = () => {
            // What has no answer yet is waited for: over another connection it might be published twice.
            if (this.#outbox.inFlight > 0) return this.#probeLater(1_000);
            const candidate = this.#candidate;
            this.#candidate = undefined;
            this.#drop(1000);
            this.#attempt = next;
            this.#carrier = candidate;
            this.#state = "connecting";
            this.emit("connecting", { transport: "websocket" });
            this.#patience = setTimeout(() => this.#lose(1006, "no answer", true), this.#options.connectTimeoutMs ?? 10_000);
            listener.opened();
        };
        this.#candidate = this.#socket({ ...listener, opened, ended: (code, reason) => (next === this.#attempt ? this.#lose(code, reason) : this.#probeLater()) });
    }

    // --- a connection ends ---

    #tokenless(error: unknown): void {
        const told = failure("unauthenticated", String(error), (error as { retry?: unknown } | null)?.retry !== false);
        this.emit("error", told);
        this.#farewell = { reconnect: told.retry, reason: "", afterMs: 0 };
        this.#lose(1006, "no token");
    }

    #lose(code: number, reason: string, isDead = false): void {
        const farewell = this.#farewell;
        const lived = this.#connected ? Date.now() - this.#openedAt : 0;
        // An expired token that nobody can renew is as good as a bad one.
        const isExpired = code === 4008 && !this.#options.getToken;
        const reconnect = mayReconnect(code) && farewell?.reconnect !== false && !isExpired;
        if (this.#carrier && !this.#connected && !(this.#isOpen && this.#carrier.kind === "websocket")) this.#unopened++;
        // Not 1000: presence is to wait for us.
        this.#drop(3000, isDead);
        this.#failures = lived > SETTLED_MS ? 0 : this.#failures + 1;
        const afterMs = reconnect ? delay(Math.max(0, this.#failures - 1), farewell?.afterMs ?? 0, Math.random()) : 0;
        if (!reconnect) this.#finish();
        else {
            this.#state = "waiting";
            this.#retry = setTimeout(() => void this.#dial(), afterMs);
        }
        this.emit("disconnected", { code, reason: farewell?.reason || reason, reconnect, afterMs });
    }

    #drop(code: number, isDead = false): void {
        this.#attempt = {};
        for (const timer of [this.#retry, this.#patience, this.#refresh, this.#probe]) clearTimeout(timer);
        clearInterval(this.#beat);
        this.#carrier?.close(code, isDead);
        this.#candidate?.close(code);
        this.#carrier = this.#candidate = this.#connected = undefined;
        this.#pingedAt = this.#greeting = 0;
        this.#isOpen = false;
        this.#outbox.interrupt();
        for (const subscription of this.#subscriptions.values()) subscription.interrupt();
        const requests = [...this.#requests.values()];
        this.#requests.clear();
        for (const { reject } of requests) reject(failure("lost", "the connection was lost"));
    }

    #finish(): void {
        this.#state = "closed";
        this.#outbox.end();
        for (const one of this.#unconnected) one.reject(failure("closed", "the client is closed"));
        this.#unconnected.clear();
    }
}

// To whom the token belongs: the node takes keys for those of a user.
function userOf(token: string | undefined): string | undefined {
    try {
        const claims = (token ?? "").split(".")[1] ?? "";
        const { sub } = JSON.parse(atob(claims.replace(/-/g, "+").replace(/_/g, "/"))) as { sub?: string };
        return sub;
    } catch {
        return undefined; // not one that can be read here
    }
}
