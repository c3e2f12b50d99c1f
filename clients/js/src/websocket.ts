import { type Carrier, type Listener, parse } from "./carrier.js";

const SUBPROTOCOL = "skywave.v1.json";

/** What a browser's WebSocket and that of the package `ws` have in common: all that is used here. */
export interface WebSocketLike {
    readonly readyState: number;
    readonly bufferedAmount: number;
    onopen: ((event: never) => unknown) | null;
    onmessage: ((event: never) => unknown) | null;
    onclose: ((event: never) => unknown) | null;
    onerror: ((event: never) => unknown) | null;
    send(data: string): void;
    close(code?: number): void;
}

export type WebSocketClass = new (url: string, protocol: string) => WebSocketLike;

export class Socket implements Carrier {
    readonly kind = "websocket";
    #socket: WebSocketLike & { terminate?(): void };

    constructor(Class: WebSocketClass, url: string, listener: Listener) {
        const socket = new Class(url, SUBPROTOCOL);
        this.#socket = socket;
        socket.onopen = () => listener.opened();
        socket.onmessage = ({ data }: { data: string }) => {
            listener.heard();
            // A frame carries one object or several, one on each line; an earlier one may have been the end.
            for (const line of data.split("\n")) {
                const said = line && socket.onmessage && parse(line);
                if (said) listener.said(said);
            }
        };
        socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
            this.#silence();
            listener.ended(code, reason);
        };
        socket.onerror = () => {}; // the close event, which follows, tells it; and without a handler `ws` would throw
    }

    get waiting(): number {
        return this.#socket.bufferedAmount;
    }

    say(command: string): void {
        if (this.#socket.readyState === 1) this.#socket.send(command);
    }

    // Does not wait for the close event: over a dead network that takes minutes.
    close(code: number, isDead = false): void {
        this.#silence();
        if (isDead && this.#socket.terminate) this.#socket.terminate();
        else this.#socket.close(code);
    }

    #silence(): void {
        this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    }
}
