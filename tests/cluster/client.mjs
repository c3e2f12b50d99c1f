// A client of the JSON protocol that keeps one subscription over reconnects, and remembers all that it got.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "./processes.mjs";

const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");

export class Client {
    #url;
    #channel;
    #socket;
    #session;
    #isClosing = false;

    node; // the name of the node that it is connected to, undefined between two
    reconnects = 0;
    position; // the last {epoch, offset}
    publications = []; // everything received, recovered or live, as it came
    complaints = []; // what must not happen: gaps, errors, `recovered: false`

    // `url` is that of a node's or a balancer's public listener.
    constructor(url, channel) {
        this.#url = `${url.replace(/^http/, "ws")}/ws`;
        this.#channel = channel;
    }

    // Resolves when it is subscribed.
    async connect() {
        this.#dial();
        await until(() => `subscribed to ${this.#channel}: ${this.complaints}`, () => this.node !== undefined);
        return this;
    }

    close() {
        this.#isClosing = true;
        this.#socket.close(1000);
    }

    #dial() {
        const socket = new WebSocket(this.#url, "skywave.v1.json");
        this.#socket = socket;
        socket.on("open", () => {
            const subscribe = [{ channel: this.#channel, since: this.position }];
            socket.send(JSON.stringify({ id: 1, connect: { session: this.#session, subscribe } }));
        });
        // Several objects in a frame stand on lines of their own.
        socket.on("message", (frame) => frame.toString().split("\n").filter(Boolean).forEach((line) => this.#take(JSON.parse(line))));
        socket.on("error", () => {}); // `close` follows
        socket.on("close", async () => {
            this.node = undefined;
            if (this.#isClosing) return;
            await sleep(50 + Math.random() * 200); // not all at the same moment
            this.reconnects += 1;
            this.#dial();
        });
    }

    #take(push) {
        if (push.connected) this.#connected(push.connected);
        else if (push.publication) this.#keep(push.publication);
        else if (push.gap || push.error || push.unsubscribed) this.complaints.push(JSON.stringify(push));
    }

    #connected({ node, session, subscribed }) {
        const [subscription] = subscribed ?? [];
        if (!subscription || subscription.error) this.complaints.push(JSON.stringify(subscribed ?? null));
        else if (this.position && subscription.recovered !== true) this.complaints.push(`not recovered: ${JSON.stringify(subscription)}`);
        this.#session = session;
        subscription?.publications?.forEach((publication) => this.#keep({ ...publication, channel: this.#channel }));
        this.position ??= subscription?.position;
        this.node = node;
    }

    #keep({ channel, epoch, offset, data }) {
        if (channel !== this.#channel) this.complaints.push(`a publication of ${channel}`);
        this.position = { epoch, offset };
        this.publications.push({ epoch, offset, data });
    }
}
