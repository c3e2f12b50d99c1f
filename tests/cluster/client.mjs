// Clients that keep one subscription over reconnects, and remember all that they got: one of each kind.
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { root, until } from "./processes.mjs";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const WebSocket = require("ws");
const protobuf = require("protobufjs");

const schema = new protobuf.Root();
schema.resolvePath = (_, file) => join(root, "proto/proto", file);
await schema.load("skywave/v1/client.proto", { keepCase: true });
const [Command, Reply] = ["skywave.v1.Command", "skywave.v1.Reply"].map((name) => schema.lookupType(name));

// What all of them do: come back when the connection ends, when they are told to or a moment later.
class Lasting {
    #socket;
    #isClosing = false;
    #afterMs;

    channel;
    node; // the name of the node that it is connected to, undefined between two
    dials = []; // when it came back: milliseconds, of one clock
    closes = []; // the code of each end that was not its own wish
    away = []; // how long it was away each time: milliseconds
    position; // the last {epoch, offset}
    publications = []; // everything received, recovered or live, as it came
    complaints = []; // what must not happen: gaps, errors, `recovered: false`

    constructor(channel) {
        this.channel = channel;
    }

    get reconnects() {
        return this.dials.length;
    }

    // Resolves when it is subscribed.
    async connect() {
        this.#dial();
        await until(() => `subscribed to ${this.channel}: ${this.complaints}`, () => this.node !== undefined);
        return this;
    }

    close() {
        this.#isClosing = true;
        this.#socket.close(1000);
    }

    say(command) {
        this.#socket.send(this.encode(command));
    }

    // As if the network had gone, for good.
    vanish() {
        this.#isClosing = true;
        this.#socket.terminate();
    }

    // As if the network had gone, for a moment.
    interrupt() {
        this.#socket.terminate();
    }

    #dial() {
        const socket = new WebSocket(...this.address());
        this.#socket = socket;
        socket.on("open", () => this.opened(socket));
        socket.on("message", (frame) => this.take(frame));
        socket.on("error", () => {}); // `close` follows
        socket.on("close", async (code, reason) => {
            const was = this.node;
            this.node = undefined;
            if (this.#isClosing) return;
            if (was !== undefined) {
                this.closes.push(code);
                this.since = performance.now();
                this.ended(code, reason.toString());
            }
            await sleep(this.#afterMs ?? 50 + Math.random() * 200); // not all at the same moment
            this.#afterMs = undefined;
            this.dials.push(performance.now());
            this.#dial();
        });
    }

    // It is to come back after so long.
    wait(ms) {
        this.#afterMs = ms;
    }

    subscribed(node) {
        if (this.since !== undefined) this.away.push(performance.now() - this.since);
        this.since = undefined;
        this.node = node;
    }

    keep({ channel, epoch, offset, data }) {
        if (channel !== this.channel) this.complaints.push(`a publication of ${channel}`);
        this.position = { epoch, offset };
        this.publications.push({ epoch, offset, data });
    }
}

// The JSON protocol. `url` is that of a node's or a balancer's public listener.
export class Client extends Lasting {
    #url;
    #session;

    constructor(url, channel) {
        super(channel);
        this.#url = `${url.replace(/^http/, "ws")}/ws`;
    }

    address() {
        return [this.#url, this.subprotocol];
    }

    subprotocol = "skywave.v1.json";

    opened(socket) {
        const subscribe = [{ channel: this.channel, ...(this.position && { since: this.position }) }];
        const connect = { subscribe, ...(this.#session && { session: this.#session }) };
        socket.send(this.encode({ id: 1, connect }));
    }

    // Without an id: only a refusal is answered, and is a complaint. Under the same key it is published once.
    publish(data, key) {
        this.say({ publish: { channel: this.channel, data: this.payload(data), ...(key && { key }) } });
    }

    payload(data) {
        return data;
    }

    encode(command) {
        return JSON.stringify(command);
    }

    // Several objects in a frame stand on lines of their own.
    decode(frame) {
        return frame.toString().split("\n").filter(Boolean).map((line) => JSON.parse(line));
    }

    take(frame) {
        for (const said of this.decode(frame)) {
            if (said.connected) this.#connected(said.connected);
            else if (said.publication) this.keep(said.publication);
            else if (said.disconnect) this.wait(said.disconnect.after_ms);
            else if (said.gap || said.error || said.unsubscribed) this.complaints.push(JSON.stringify(said));
        }
    }

    ended() {}

    #connected({ node, session, subscribed }) {
        const [subscription] = subscribed ?? [];
        if (!subscription || subscription.error) this.complaints.push(JSON.stringify(subscribed ?? null));
        else if (this.position && subscription.recovered !== true) this.complaints.push(`not recovered: ${JSON.stringify(subscription)}`);
        this.#session = session;
        subscription?.publications?.forEach((publication) => this.keep({ ...publication, channel: this.channel }));
        this.position ??= subscription?.position;
        this.subscribed(node);
    }
}

// The protobuf protocol: what it says is what the other one says, in other bytes.
export class BinaryClient extends Client {
    subprotocol = "skywave.v1.protobuf";

    payload(data) {
        return { json: Buffer.from(JSON.stringify(data)) };
    }

    encode(command) {
        return Command.encodeDelimited(Command.fromObject(command)).finish();
    }

    decode(frame) {
        const said = [];
        for (const reader = protobuf.Reader.create(frame); reader.pos < reader.len; ) {
            const reply = Reply.toObject(Reply.decodeDelimited(reader), { longs: Number });
            if (reply.publication) reply.publication = asInJson(reply.publication);
            reply.connected?.subscribed?.forEach((outcome) => {
                Object.assign(outcome, outcome.subscribed);
                outcome.publications = outcome.publications?.map(asInJson);
                // A default is not written: what stands at offset 0 has none.
                if (outcome.position) outcome.position = { offset: 0, ...outcome.position };
            });
            said.push(reply);
        }
        return said;
    }
}

// What a bare client published is text, and JSON to whom that is told in JSON.
const asInJson = ({ data, position, ...rest }) => ({ ...rest, offset: 0, ...position, data: JSON.parse(Buffer.from(data.json ?? data.text)) });

// A bare WebSocket: what comes is the payload and nothing else, and the position to come back with is in the close reason.
export class BareClient extends Lasting {
    #url;
    #since;
    place = 0; // how many have come, which is all that it knows of positions

    constructor(url, channel) {
        super(channel);
        this.#url = `${url.replace(/^http/, "ws")}/raw/${encodeURIComponent(channel)}`;
    }

    address() {
        return [this.#since ? `${this.#url}?since=${encodeURIComponent(this.#since)}` : this.#url];
    }

    publish(data) {
        this.say(data);
    }

    encode(data) {
        return JSON.stringify(data);
    }

    opened() {
        this.subscribed("?"); // it is not told which node it is on
    }

    take(frame) {
        this.place += 1;
        this.keep({ channel: this.channel, epoch: "bare", offset: this.place, data: JSON.parse(frame) });
    }

    ended(code, reason) {
        if (code === 1012 && reason) this.#since = reason;
        else this.complaints.push(`no position to come back with: ${code} ${reason}`);
        this.wait(Math.random() * 100);
    }
}
