import type { Position, WireError } from "./wire.js";

/**
 * What a call rejects with. `code` is one of the node's (`permission_denied`, `limit`, `unavailable`, …) or of the client's own:
 *
 * - `lost`: the connection broke before the answer came; whether it was done is not known (only `rpc` can have done anything)
 * - `unknown_outcome`: a publication was sent and may have arrived; to send it again could double it
 * - `timeout`: no answer in time; a publication with this code was never sent
 * - `queue_full`: too much waits already; wait for `drained()`
 * - `closed`: the client was closed, or the node said not to come back
 * - `unsupported`: not over the fallback, which has subscribe and publish only
 */
export class SkywaveError extends Error {
    override readonly name = "SkywaveError";
    readonly code: string;
    /** Whether the same again may succeed. */
    readonly retry: boolean;
    /** Not before so many milliseconds. */
    readonly afterMs: number;
    /** With `not_replicated`: where it is stored all the same. */
    readonly position: Position | undefined;

    constructor({ code, message, retry, after_ms, position }: WireError) {
        super(message || code);
        this.code = code;
        this.retry = retry ?? false;
        this.afterMs = after_ms ?? 0;
        this.position = position;
    }
}

export const failure = (code: string, message: string, retry = true): SkywaveError => new SkywaveError({ code, message, retry });
