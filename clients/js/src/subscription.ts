import { Emitter } from "./emitter.js";
import { failure, SkywaveError } from "./error.js";
import type { PublishOptions } from "./outbox.js";
import type { Member, Position, Publication, Published, Subscribed, WireError } from "./wire.js";

export interface SubscribeOptions {
    /** Asks for members, joins and leaves. */
    readonly presence?: boolean;
    /** `false` leaves out what this client publishes itself. */
    readonly echo?: boolean;
    /** A position kept from earlier: what was published since is handed over first. */
    readonly since?: Position;
    /** A token for this channel alone, asked for anew before each subscribe. */
    readonly getToken?: (channel: string) => string | Promise<string>;
}

/** Something was, or may have been, published that the handlers did not and will not get. */
export interface Gap {
    /**
     * `slow_consumer`: read too slowly · `rollback`: Redis lost what had been seen · `reset`: start over · `possible`: on a channel
     * that is live only, while nobody listened · `not_recovered`: the history does not reach back to the position.
     */
    readonly reason: "slow_consumer" | "rollback" | "reset" | "possible" | "not_recovered" | (string & {});
    /** How many, where that is known. */
    readonly missed?: number;
    /** The last position before. */
    readonly since?: Position;
    /** Where it goes on. */
    readonly position?: Position;
}

export interface SubscriptionEvents<T> {
    /** Each publication exactly once, in order. `recovered`: it was missed, and came with the answer to the (re)subscribe. */
    publication: Publication<T> & { readonly recovered: boolean };
    gap: Gap;
    /** Before the publications that were missed. `isFirst`: not after a reconnect. */
    subscribed: { readonly isFirst: boolean; readonly recovered: boolean | undefined; readonly position: Position | undefined };
    /** For good, unless `subscribe` is called again: refused, or taken away. */
    unsubscribed: { readonly reason: string; readonly error?: SkywaveError };
    /** The whole list (of at most 1,000, `total` there are), in the place of what was known before. */
    members: { readonly members: readonly Member[]; readonly total: number; readonly next?: string };
    join: Member;
    leave: Member;
}

/** @internal What a subscription wants of its client. */
export interface Owner {
    unsubscribe(channel: string): void;
    publish(channel: string, data: unknown, options?: PublishOptions): Promise<Published>;
}

/** A client's place on a channel, kept over reconnects until `unsubscribe`. */
export class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> {
    readonly channel: string;
    /** @internal */
    readonly options: SubscribeOptions;
    readonly #owner: Owner;
    #state: "subscribing" | "subscribed" | "ended" = "subscribing";
    #position: Position | undefined;
    #hasBeen = false; // subscribed before
    #end: SkywaveError | undefined;
    /** @internal How often in a row the node said: later. */
    refusals = 0;

    /** @internal */
    constructor(owner: Owner, channel: string, options: SubscribeOptions) {
        super();
        this.#owner = owner;
        this.channel = channel;
        this.options = options;
        this.#position = options.since;
    }

    get state(): "subscribing" | "subscribed" | "ended" {
        return this.#state;
    }

    /** The last position that the handlers were given; to be kept for `since`. None on a channel that is live only. */
    get position(): Position | undefined {
        return this.#position;
    }

    /** Resolves when subscribed, at once if it is; rejects when refused. Without a connection it waits for one. */
    ready(): Promise<void> {
        return new Promise((resolve, reject) => {
            if (this.#state === "subscribed") return resolve();
            if (this.#state === "ended") return reject(this.#end);
            const offs = [
                this.on("subscribed", () => settle(resolve)),
                this.on("unsubscribed", () => settle(() => reject(this.#end))),
            ];
            const settle = (then: () => void) => {
                for (const off of offs) off();
                then();
            };
        });
    }

    /** As `client.publish` on this channel. */
    publish(data: unknown, options?: PublishOptions): Promise<Published> {
        return this.#owner.publish(this.channel, data, options);
    }

    /** Leaves the channel for good; nothing is handed over after this. */
    unsubscribe(): void {
        if (this.#isHere()) this.#owner.unsubscribe(this.channel);
    }

    /** @internal What to say of it in `subscribe` or `connect`. */
    request(token?: string): object {
        const { presence, echo } = this.options;
        return { channel: this.channel, since: this.#position, presence, echo, token };
    }

    /** @internal The answer to `subscribe`, or of this channel in `connected`. */
    begin({ position, recovered, publications = [], members, total, next }: Subscribed): void {
        const since = this.#position;
        const isFirst = !this.#hasBeen;
        this.#state = "subscribed";
        this.#hasBeen = true;
        this.refusals = 0;
        if (recovered === false) this.#position = position;
        this.emit("subscribed", { isFirst, recovered, position });
        if (members) this.list({ channel: this.channel, members, ...(total !== undefined && { total }), ...(next !== undefined && { next }) });
        if (recovered === false) this.#gap("not_recovered", { since, position });
        else if (!since && !isFirst) this.#gap("possible", { position });
        for (const publication of publications) this.take(publication as Publication<T>, true);
        if (this.#state === "subscribed") this.#position = position ?? this.#position;
    }

    /** @internal Each place once: what was seen already may come again behind a reconnect. */
    take(publication: Publication<T>, recovered = false): void {
        if (this.#state !== "subscribed") return;
        const { epoch, offset } = publication;
        if (offset !== undefined && epoch !== undefined) {
            if (epoch === this.#position?.epoch && offset <= this.#position.offset) return;
            this.#position = { epoch, offset };
        }
        this.emit("publication", { ...publication, channel: this.channel, recovered });
    }

    /** @internal */
    lose({ reason, missed, position }: { reason: string; missed?: number; position?: Position }): void {
        const since = this.#position;
        this.#position = position ?? since;
        this.#gap(reason, { since, position, missed });
    }

    /** @internal */
    list({ members, total, next }: Subscribed): void {
        if (members) this.emit("members", { members, total: total ?? members.length, ...(next !== undefined && { next }) });
    }

    /** @internal The connection is gone; the next one recovers. */
    interrupt(): void {
        if (this.#isHere()) this.#state = "subscribing";
    }

    /** @internal */
    end(reason: string, error?: WireError): void {
        if (this.#state === "ended") return;
        this.#state = "ended";
        this.#end = error ? new SkywaveError(error) : failure("not_subscribed", reason, false);
        this.emit("unsubscribed", { reason, ...(error && { error: this.#end }) });
    }

    #isHere(): boolean {
        return this.#state !== "ended";
    }

    #gap(reason: string, { since, position, missed }: { since?: Position | undefined; position?: Position | undefined; missed?: number | undefined }): void {
        this.emit("gap", { reason, ...(missed !== undefined && { missed }), ...(since && { since }), ...(position && { position }) });
    }
}
