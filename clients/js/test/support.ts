// What the tests share: a node of their own, a client with the WebSocket of `ws`, a wire that can be cut, and a stand-in of a
// node that says what it is told to. Every wait has a deadline.
import { createHmac } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { freePorts, kill, root, skywave, start, until as soon, untilAnswers } from "../../../tests/cluster/processes.mjs";
import { Client, type ClientOptions, type Subscription } from "../src/index.js";

export { WebSocket };

const artefacts = join(root, "tests/artefacts/client-js");
const ends: (() => unknown)[] = [];
const clients: Client[] = [];
let channels = 0;

afterEach(() => clients.splice(0).forEach((client) => client.close()));
afterAll(() => Promise.all(ends.splice(0).map((end) => end())));

export const until = (what: string, condition: () => unknown, ms = 8_000): Promise<void> => soon(() => what, condition, ms);

/** A channel of this test alone. */
export const channel = (): string => `js-${process.pid.toString(36)}-${++channels}`;

export function client(url: string, options: ClientOptions = {}): Client {
    const made = new Client(url, { WebSocket: WebSocket as never, ...options });
    clients.push(made);
    return made;
}

export const untilConnected = (client: Client): Promise<void> => until("connected", () => client.state === "connected");

/** What a subscription's handlers were given. */
export function record<T>(subscription: Subscription<T>) {
    const seen = { data: [] as T[], offsets: [] as (number | undefined)[], gaps: [] as string[], log: [] as string[] };
    subscription.on("publication", ({ data, offset }) => {
        seen.data.push(data);
        seen.offsets.push(offset);
        seen.log.push("publication");
    });
    subscription.on("gap", ({ reason }) => seen.gaps.push(reason));
    for (const name of ["subscribed", "unsubscribed", "members", "join", "leave", "gap"] as const) subscription.on(name, () => seen.log.push(name));
    return seen;
}

/** A node in development mode, or with these settings. */
export async function node(settings?: string) {
    const [port, internalPort] = (await freePorts(2)) as [number, number];
    const internal = `http://127.0.0.1:${internalPort}`;
    const args = ["serve", "--listen", `127.0.0.1:${port}`, "--internal-listen", `127.0.0.1:${internalPort}`];
    if (settings === undefined) args.push("--dev");
    else {
        mkdirSync(artefacts, { recursive: true });
        const file = join(artefacts, `node-${port}.toml`);
        writeFileSync(file, settings);
        args.push("--config", file);
    }
    const child = start(`node-${port}`, artefacts, skywave, args);
    ends.push(() => kill(child));
    await untilAnswers(child, `${internal}/readyz`);
    return { url: `http://127.0.0.1:${port}`, port, internal, child };
}

/** A port that leads to another, until it is cut. */
export async function wire(port: number) {
    const pairs = new Set<[Socket, Socket]>();
    const self = { url: "", isOpen: true, isDeaf: false, dials: 0, cut: () => {} };
    const server: Server = createServer((near) => {
        self.dials += 1;
        near.on("error", () => {});
        if (!self.isOpen) return void near.destroy();
        const far = connect(port, "127.0.0.1");
        const pair: [Socket, Socket] = [near, far];
        pairs.add(pair);
        near.on("data", (data) => far.write(data));
        far.on("data", (data) => self.isDeaf || near.write(data)); // what a node says then is lost
        far.on("error", () => {});
        for (const [one, other] of [pair, [far, near] as const]) {
            one.on("close", () => {
                pairs.delete(pair);
                other.destroy();
            });
        }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    self.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    self.cut = () => pairs.forEach(([near]) => near.destroy());
    ends.push(() => {
        self.cut();
        return new Promise((resolve) => server.close(resolve));
    });
    return self;
}

export interface Command {
    id?: number;
    connect?: { token?: string; session?: string; subscribe: { channel: string; since?: object }[] };
    publish?: { channel: string; data: unknown; key: string };
    [name: string]: unknown;
}

/** Connections of a client to a node that does what `answer` says. */
export async function standIn(answer: (command: Command, connection: Connection) => unknown) {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "skywave.v1.json" });
    await new Promise((resolve) => server.once("listening", resolve));
    const connections: Connection[] = [];
    server.on("connection", (socket) => {
        const connection = new Connection(socket);
        connections.push(connection);
        socket.on("message", (frame) => {
            for (const line of String(frame).split("\n")) {
                const command = JSON.parse(line) as Command;
                connection.heard.push(command);
                const said = answer(command, connection);
                if (said) connection.say(...(Array.isArray(said) ? said : [said]));
            }
        });
    });
    ends.push(() => {
        server.clients.forEach((socket) => socket.terminate());
        return new Promise((resolve) => server.close(resolve));
    });
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, connections, last: () => connections.at(-1) as Connection };
}

export class Connection {
    readonly heard: Command[] = [];
    constructor(readonly socket: WebSocket) {}

    /** All in one frame. */
    say(...said: unknown[]): void {
        this.socket.send(said.map((one) => JSON.stringify(one)).join("\n"));
    }
}

/** The answer to `connect`, with all that it asked for at these positions. */
export function welcome({ id, connect }: Command, more: object = {}, outcome: (channel: string, since?: object) => object = () => ({ position: { epoch: "e", offset: 0 } })) {
    const subscribed = connect?.subscribe.map(({ channel, since }) => ({ channel, ...outcome(channel, since) }));
    return { id, connected: { client: "me", session: "s", node: "stand-in", ping_interval_ms: 25_000, subscribed, ...more } };
}

export const published = (channel: string, offset: number, data: unknown = offset, epoch = "e") => ({ publication: { channel, epoch, offset, data } });

/** A token of HS256. */
export function token(secret: string, claims: object): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
    return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}
