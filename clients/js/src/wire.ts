// The words of the JSON protocol `skywave.v1.json`, as they stand on the wire. Durations are milliseconds.

/** A place in a channel: the line of offsets, and the offset in it. */
export interface Position {
    readonly epoch: string;
    readonly offset: number;
}

/** Who is on a channel. `info` comes from the client's token. */
export interface Member {
    readonly client: string;
    readonly user?: string;
    readonly info?: unknown;
}

/** One payload on one channel. Without `offset` and `epoch` the channel is live only. */
export interface Publication<T = unknown> {
    readonly channel: string;
    readonly data: T;
    /** Instead of `data`, what was published as bytes. */
    readonly data_base64?: string;
    readonly epoch?: string;
    readonly offset?: number;
    /** The publishing client; none for what came through the server API. */
    readonly client?: string;
    readonly user?: string;
}

export interface MemberPage {
    readonly members: readonly Member[];
    /** How many there are; a page holds at most 1,000. */
    readonly total: number;
    /** For `after` of the next page. */
    readonly next?: string;
}

export interface HistoryPage<T = unknown> {
    /** Where the channel is; absent where nothing was ever published. */
    readonly position?: Position;
    /** Ascending. */
    readonly publications: readonly Publication<T>[];
    /** Whether it reaches back to `since`. */
    readonly complete: boolean;
    /** Whether there is more behind the last of these. */
    readonly more?: boolean;
}

export interface Published {
    /** Absent on a channel that is live only. */
    readonly position?: Position;
    /** Whether this key had been published before; then nothing was published now. */
    readonly duplicate: boolean;
}

export interface Subscribed {
    readonly channel: string;
    readonly position?: Position;
    readonly recovered?: boolean;
    readonly publications?: readonly Publication[];
    readonly members?: readonly Member[];
    readonly total?: number;
    readonly next?: string;
}

export interface WireError {
    readonly code: string;
    readonly message?: string;
    readonly retry?: boolean;
    readonly after_ms?: number;
    readonly position?: Position;
}

export interface Connected {
    readonly client: string;
    readonly session?: string;
    readonly node: string;
    readonly ping_interval_ms: number;
    readonly expires_in_ms?: number;
    readonly subscribed?: readonly (Subscribed & { readonly error?: WireError })[];
}

/** What a node says: an answer under the id of its command, or a push without. */
export interface Said {
    readonly id?: number;
    readonly connected?: Connected;
    readonly subscribed?: Subscribed;
    readonly unsubscribed?: { readonly channel: string; readonly reason?: string };
    readonly published?: Published;
    readonly presence?: MemberPage;
    readonly history?: HistoryPage;
    readonly refreshed?: { readonly expires_in_ms?: number };
    readonly result?: { readonly data?: unknown };
    readonly pong?: object;
    readonly error?: WireError;
    readonly publication?: Publication;
    readonly join?: { readonly channel: string; readonly member: Member };
    readonly leave?: { readonly channel: string; readonly member: Member };
    readonly gap?: { readonly channel: string; readonly reason: string; readonly missed?: number; readonly position?: Position };
    readonly backplane?: { readonly state: "ok" | "degraded" };
    readonly disconnect?: { readonly code: number; readonly reason: string; readonly reconnect: boolean; readonly after_ms?: number };
}
