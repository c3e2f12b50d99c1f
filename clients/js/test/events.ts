// A small stand-in of what DESIGN says of `/sse` and `POST /publish`, for what a node cannot be made to do; the WebSocket is
// refused there until it is let in.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll } from "vitest";
import { WebSocketServer } from "ws";
import { type Command, welcome } from "./support.js";

interface Stream {
    response: ServerResponse;
    channels: string[];
}

export class EventServer {
    readonly #server = createServer((request, response) => this.#answer(request, response));
    readonly #sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "skywave.v1.json" });
    readonly #history = new Map<string, { data: unknown; key?: string }[]>();
    readonly streams = new Set<Stream>();
    readonly queries: URLSearchParams[] = [];
    readonly posts: { channel: string; data: unknown; key: string; authorization: string | undefined }[] = [];
    upgrades = 0;
    letsIn = false; // WebSockets
    isMute = false; // takes publications and answers none of them
    refused = new Set<string>(); // channels
    token: string | undefined; // the only one that is good, if any
    held: Promise<void> | undefined; // answers to publications wait for it
    refusal: { status: number; body: object } | undefined;
    url = "";

    static async start(): Promise<EventServer> {
        const self = new EventServer();
        self.#server.on("upgrade", (request, socket, head) => {
            self.upgrades += 1;
            socket.on("error", () => {});
            if (!self.letsIn) return void socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
            self.#sockets.handleUpgrade(request, socket, head, (ws) => {
                // From then on it gets all that is published, whatever it asked for.
                ws.on("message", (frame) => ws.send(JSON.stringify(self.#speak(JSON.parse(String(frame)) as Command))));
            });
        });
        await new Promise<void>((resolve) => self.#server.listen(0, "127.0.0.1", resolve));
        self.url = `http://127.0.0.1:${(self.#server.address() as AddressInfo).port}`;
        afterAll(() => {
            self.#sockets.clients.forEach((socket) => socket.terminate());
            self.#server.closeAllConnections();
            self.#server.close();
        });
        return self;
    }

    publish(channel: string, data: unknown, key?: string) {
        const all = this.#of(channel);
        const known = key === undefined ? -1 : all.findIndex((one) => one.key === key);
        if (known >= 0) return { position: { epoch: "e", offset: known + 1 }, duplicate: true };
        all.push({ data, ...(key !== undefined && { key }) });
        for (const stream of this.streams) if (stream.channels.includes(channel)) this.#write(stream, channel, all.length);
        const push = { publication: { channel, epoch: "e", offset: all.length, data } };
        for (const socket of this.#sockets.clients) socket.send(JSON.stringify(push));
        return { position: { epoch: "e", offset: all.length }, duplicate: false };
    }

    /** Ends all streams: as a drain does, or as a network that fails. */
    end(how: "drain" | "break"): void {
        for (const { response } of this.streams) {
            if (how === "drain") response.end(`${JSON.stringify({ disconnect: { code: 4001, reason: "draining", reconnect: true, after_ms: 20 } })}\n`);
            else response.destroy();
        }
        this.streams.clear();
    }

    push(said: object): void {
        for (const { response } of this.streams) response.write(`${JSON.stringify(said)}\n`);
    }

    #of(channel: string) {
        const all = this.#history.get(channel) ?? [];
        this.#history.set(channel, all);
        return all;
    }

    #answer(request: IncomingMessage, response: ServerResponse): void {
        const url = new URL(request.url ?? "", "http://localhost");
        if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`) {
            response.writeHead(401, { "content-type": "application/problem+json" }).end(JSON.stringify({ code: "unauthenticated", detail: "expired", retry: false }));
        } else if (this.refusal) {
            response.writeHead(this.refusal.status, { "content-type": "application/problem+json" }).end(JSON.stringify(this.refusal.body));
        } else if (url.pathname === "/sse") this.#stream(url.searchParams, response);
        else if (url.pathname === "/publish" && request.method === "POST") this.#post(request, response);
        else response.writeHead(404).end();
    }

    #stream(query: URLSearchParams, response: ServerResponse): void {
        this.queries.push(query);
        const channels = query.getAll("channel");
        const refused = channels.find((channel) => this.refused.has(channel));
        if (refused !== undefined) {
            const problem = { code: "permission_denied", detail: `not ${refused}`, retry: false, after_ms: 0 };
            return void response.writeHead(403, { "content-type": "application/problem+json" }).end(JSON.stringify(problem));
        }
        response.writeHead(200, { "content-type": "application/x-ndjson" });
        const since = new Map<string, number>();
        for (const part of (query.get("since") ?? "").split(",").filter(Boolean)) {
            const [, channel, offset] = /^(.*)=e:(\d+)$/.exec(part) ?? [];
            since.set(decodeURIComponent(channel!), Number(offset));
        }
        for (const channel of channels) {
            const all = this.#of(channel);
            const publications = all.map(({ data }, i) => ({ epoch: "e", offset: i + 1, data })).slice(since.get(channel) ?? all.length);
            const subscribed = { channel, position: { epoch: "e", offset: all.length }, ...(since.has(channel) && { recovered: true, publications }) };
            response.write(`${JSON.stringify({ subscribed })}\n\n`);
        }
        const stream = { response, channels };
        this.streams.add(stream);
        response.on("close", () => this.streams.delete(stream));
    }

    // In two pieces, as a network may bring it, and in the middle of a character.
    #write({ response }: Stream, channel: string, offset: number): void {
        const { data } = this.#of(channel)[offset - 1]!;
        const line = Buffer.from(`${JSON.stringify({ publication: { channel, epoch: "e", offset, data } })}\n`);
        const middle = line.findIndex((byte) => byte >= 0x80) + 1 || 10;
        response.write(line.subarray(0, middle));
        response.write(line.subarray(middle));
    }

    #post(request: IncomingMessage, response: ServerResponse): void {
        let body = "";
        request.on("data", (part) => (body += part));
        request.on("end", async () => {
            const { channel, data, key } = JSON.parse(body) as { channel: string; data: unknown; key: string };
            this.posts.push({ channel, data, key, authorization: request.headers.authorization });
            const answer = this.publish(channel, data, key);
            await this.held;
            if (this.isMute) response.destroy();
            else response.end(JSON.stringify(answer));
        });
    }

    #speak(command: Command): object {
        if (!command.connect) return { id: command.id, error: { code: "internal", message: "a stand-in", retry: false } };
        return welcome(command, {}, (channel, since) => {
            const from = (since as { offset: number } | undefined)?.offset ?? Infinity;
            const publications = this.#of(channel).map(({ data }, i) => ({ epoch: "e", offset: i + 1, data })).slice(from);
            return { position: { epoch: "e", offset: this.#of(channel).length }, recovered: true, publications };
        });
    }
}
