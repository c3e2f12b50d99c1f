import type { Said } from "./wire.js";

/** What a client hears from its carrier. After `ended` nothing comes. */
export interface Listener {
    /** It can be spoken to. */
    opened(): void;
    /** Something came, be it only a sign of life. */
    heard(): void;
    said(said: Said): void;
    ended(code: number, reason: string): void;
}

/**
 * Carries the protocol: over a WebSocket as it is, over Server-Sent Events and POST as far as those go. One is used for one
 * connection only.
 */
export interface Carrier {
    readonly kind: "websocket" | "sse";
    /** Bytes that were said and have not left yet. */
    readonly waiting: number;
    /** One command, as JSON text. */
    say(command: string): void;
    /** Ends it; the listener hears nothing more. `isDead`: nobody is there to answer a goodbye. */
    close(code: number, isDead?: boolean): void;
}

/** Called for each line that a node says; what cannot be read is left out. */
export function parse(line: string): Said | undefined {
    try {
        const said: unknown = JSON.parse(line);
        if (typeof said === "object" && said !== null) return said;
    } catch {
        // not ours
    }
    return undefined;
}
