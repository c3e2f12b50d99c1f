// The peer: µWebSockets with its own publish, speaking just enough of skywave.v1.json that `loadtest` drives it and a node alike.
// node uws.mjs [PORT]: says `listening on 127.0.0.1:PORT`, serves until it is ended. `check` instead: only whether it could.
import { createRequire } from "node:module";

const fail = (why) => {
    console.error(why);
    process.exit(1);
};
const load = () => {
    try {
        return createRequire(import.meta.url)("@trufflesuite/uws-js-unofficial");
    } catch (error) {
        return fail(`µWebSockets is not installed: ${error.code ?? error.message}`);
    }
};
const uws = load();
// For a Node.js that it has no binary for the package falls back to another server in JavaScript: that is no peer.
if (uws.H3App === undefined) fail(`no µWebSockets for Node.js ${process.version}: run the bench with Node.js 20`);
if (process.argv[2] === "check") process.exit(0);

const CLIENT = "0".repeat(26); // as long as a node's
const offsets = new Map();

// As a node's live-only namespace of this name: no positions.
const isLive = (channel) => channel.startsWith("live:");
const position = (channel) => (isLive(channel) ? {} : { position: { epoch: "peer00_0", offset: offsets.get(channel) ?? 0 } });

function obey(socket, { id, connect, subscribe, publish }) {
    const answer = (what) => id !== undefined && socket.send(JSON.stringify({ id, ...what }), false);
    if (publish) {
        const { channel, data } = publish;
        const offset = (offsets.get(channel) ?? 0) + 1;
        offsets.set(channel, offset);
        const place = isLive(channel) ? {} : { offset, epoch: "peer00_0" };
        const push = JSON.stringify({ publication: { channel, ...place, data, client: CLIENT } });
        // The socket's own publish leaves the socket out; a node does not.
        app.publish(channel, push, false);
        answer({ published: { ...position(channel), duplicate: false } });
    } else if (subscribe) {
        socket.subscribe(subscribe.channel);
        answer({ subscribed: { channel: subscribe.channel, ...position(subscribe.channel) } });
    } else if (connect) {
        answer({ connected: { client: CLIENT } });
    }
}

const decoder = new TextDecoder();
const app = uws.App();
app.ws("/*", {
    idleTimeout: 0,
    maxBackpressure: 16 << 20,
    maxPayloadLength: 1 << 20,
    message(socket, message) {
        for (const line of decoder.decode(message).split("\n")) {
            if (line !== "") obey(socket, JSON.parse(line));
        }
    },
});
app.listen("127.0.0.1", Number(process.argv[2] ?? 0), (listener) => {
    if (!listener) fail("cannot listen");
    console.log(`listening on 127.0.0.1:${uws.us_socket_local_port(listener)}`);
});
