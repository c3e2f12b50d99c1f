// The clients of WebSockets that people already have, each as its own documentation uses it: none of them was written for
// Skywave, and none is told anything special. What each is seen to do is the table of docs/INTEROP.md.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, describe, it } from "node:test";
import { WebSocket } from "ws";
import { channel, launchBrowser, post, PUBLIC, SUBPROTOCOL, within, wsUrl } from "./support.mjs";

const require = createRequire(import.meta.url);
const { client: WebSocketClient } = require("websocket");
const faye = require("faye-websocket");
const nodejsWebsocket = require("nodejs-websocket");
const { default: sockette } = await import("sockette");
const { default: WebSocketAsPromised } = await import("websocket-as-promised");
const { Client: RpcClient } = require("rpc-websockets");

// Larger than a frame with a short length, and with what encoders get wrong.
const LONG = `é "quoted" \u2028 \\ 👋 ${"x".repeat(5_000)}`;

// What a connection gets, until it is asked for.
class Inbox {
  #lines = [];
  #wake = () => {};

  put(text) {
    this.#lines.push(...String(text).split("\n"));
    this.#wake();
  }

  // The next line that is wanted; what came before it is left out.
  async next(wanted, what) {
    const found = async () => {
      for (;;) {
        const at = this.#lines.findIndex(wanted);
        if (at >= 0) return this.#lines.splice(0, at + 1).pop();
        await new Promise((resolve) => (this.#wake = resolve));
      }
    };
    return within(found(), what).catch((error) => {
      throw new Error(`${error.message}; instead: ${this.#lines.join(" | ").slice(0, 300)}`);
    });
  }
}

// How each library opens a connection, sends, and closes. `closed` is the code that it tells of.
const LIBRARIES = {
  ws: async (url, protocols, inbox) => {
    const socket = new WebSocket(url, protocols);
    socket.on("message", (data) => inbox.put(data));
    const closed = new Promise((resolve) => socket.on("close", resolve));
    await once(socket, "open", "error");
    return { protocol: socket.protocol, send: (text) => socket.send(text), close: () => socket.close(1000), closed };
  },
  websocket: async (url, protocols, inbox) => {
    const client = new WebSocketClient();
    const connected = once(client, "connect", "connectFailed");
    client.connect(url, protocols);
    const connection = await connected;
    connection.on("message", (message) => inbox.put(message.utf8Data));
    const closed = new Promise((resolve) => connection.on("close", resolve));
    return { protocol: connection.protocol ?? "", send: (text) => connection.sendUTF(text), close: () => connection.close(1000), closed };
  },
  "faye-websocket": async (url, protocols, inbox) => {
    const socket = new faye.Client(url, protocols);
    socket.on("message", (event) => inbox.put(event.data));
    const closed = new Promise((resolve) => socket.on("close", (event) => resolve(event.code)));
    await once(socket, "open", "error");
    return { protocol: socket.protocol, send: (text) => socket.send(text), close: () => socket.close(1000), closed };
  },
  "nodejs-websocket": async (url, protocols, inbox) => {
    const connection = nodejsWebsocket.connect(url, { protocols });
    connection.on("text", (text) => inbox.put(text));
    const closed = new Promise((resolve) => connection.on("close", resolve));
    await once(connection, "connect", "error");
    return { protocol: connection.protocol ?? "", send: (text) => connection.sendText(text), close: () => connection.close(1000), closed };
  },
  sockette: async (url, protocols, inbox) => {
    let open, shut, fail;
    const opened = new Promise((resolve, reject) => ([open, fail] = [resolve, reject]));
    const closed = new Promise((resolve) => (shut = resolve));
    const socket = sockette(url, {
      protocols,
      maxAttempts: 1,
      onopen: (event) => open(event.target),
      onmessage: (event) => inbox.put(event.data),
      onerror: fail,
      onclose: (event) => shut(event.code),
    });
    const { protocol } = await opened;
    return { protocol, send: (text) => socket.send(text), close: () => socket.close(1000), closed };
  },
  "websocket-as-promised": async (url, protocols, inbox) => {
    const createWebSocket = (address) => new WebSocket(address, protocols);
    const socket = new WebSocketAsPromised(url, { createWebSocket, extractMessageData: (data) => data });
    socket.onMessage.addListener((data) => inbox.put(data));
    await within(socket.open(), "open");
    const closed = new Promise((resolve) => socket.onClose.addListener((event) => resolve(event.code ?? event)));
    return { protocol: socket.ws.protocol, send: (text) => socket.send(text), close: () => socket.close(1000), closed };
  },
};

function once(emitter, good, bad) {
  return within(new Promise((resolve, reject) => emitter.once(good, resolve).once(bad, reject)), good);
}

const seen = new Map();
const saw = (library, ...what) => seen.set(library, [...(seen.get(library) ?? []), ...what]);

// sockette is for browsers, and Node.js 20 has no WebSocket of its own.
globalThis.WebSocket ??= WebSocket;

for (const [name, open] of Object.entries(LIBRARIES)) {
  describe(name, () => {
    it("speaks skywave.v1.json", async () => {
      const inbox = new Inbox();
      const client = await open(wsUrl("/ws"), [SUBPROTOCOL], inbox);
      assert.equal(client.protocol, SUBPROTOCOL);
      const line = (what, wanted) => inbox.next((text) => wanted(JSON.parse(text)), what).then(JSON.parse);
      const ask = (id, command) => {
        client.send(JSON.stringify({ id, ...command }));
        return line(`the answer to ${Object.keys(command)}`, (said) => said.id === id);
      };
      const topic = channel("interop");
      assert.ok((await ask(1, { connect: {} })).connected.client);
      assert.ok((await ask(2, { subscribe: { channel: topic } })).subscribed.position);
      saw(name, "connects", "subscribes");
      // Its own publication may come before the answer.
      client.send(JSON.stringify({ id: 3, publish: { channel: topic, data: LONG } }));
      const own = await line("its own publication", (said) => said.publication);
      assert.equal(own.publication.data, LONG);
      saw(name, "publishes");
      assert.equal((await post("publish", { channel: topic, data: { from: "a back end" } })).status, 200);
      const other = await line("what a back end publishes", (said) => said.publication);
      assert.deepEqual(other.publication.data, { from: "a back end" });
      assert.equal(other.publication.offset, own.publication.offset + 1);
      saw(name, "receives");
      client.close();
      assert.equal(await within(client.closed, "close"), 1000);
      saw(name, "closes");
    });

    it("speaks to /raw", async () => {
      const topic = channel("interop");
      const [mine, theirs] = [new Inbox(), new Inbox()];
      const url = wsUrl(`/raw/${encodeURIComponent(topic)}`);
      const [ada, bob] = [await open(url, [], mine), await open(url, [], theirs)];
      ada.send(LONG);
      for (const inbox of [mine, theirs]) await inbox.next((text) => text === LONG, "the payload itself");
      for (const client of [ada, bob]) {
        client.close();
        assert.equal(await within(client.closed, "close"), 1000);
      }
      saw(name, "raw");
    });
  });
}

// It speaks JSON-RPC, which is nobody's protocol but its own: on /raw a node carries it from client to client.
describe("rpc-websockets", () => {
  it("carries its notifications over /raw", async () => {
    const url = wsUrl(`/raw/${encodeURIComponent(channel("interop"))}`);
    const [ada, bob] = [new RpcClient(url, { reconnect: false }), new RpcClient(url, { reconnect: false })];
    await Promise.all([once(ada, "open", "error"), once(bob, "open", "error")]);
    const got = [ada, bob].map((client) => within(new Promise((resolve) => client.once("greeting", resolve)), "greeting"));
    await ada.notify("greeting", { text: LONG });
    for (const params of await Promise.all(got)) assert.deepEqual(params, { text: LONG });
    const closed = [ada, bob].map((client) => within(new Promise((resolve) => client.once("close", resolve)), "close"));
    [ada, bob].forEach((client) => client.close(1000));
    assert.deepEqual(await Promise.all(closed), [1000, 1000]);
    saw("rpc-websockets", "connects", "subscribes", "publishes", "receives", "closes", "raw");
  });
});

describe("the browser's WebSocket", () => {
  it("speaks both, in Chromium", async () => {
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage();
      await page.goto(PUBLIC);
      const topic = channel("interop");
      const urls = { native: wsUrl("/ws"), raw: wsUrl(`/raw/${encodeURIComponent(`${topic}-raw`)}`) };
      const run = ({ urls, topic, subprotocol, long }) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(urls.native, subprotocol);
          const told = { protocol: null, own: false, raw: false };
          const say = (command) => socket.send(JSON.stringify(command));
          socket.onopen = () => {
            told.protocol = socket.protocol;
            say({ id: 1, connect: { subscribe: [{ channel: topic }] } });
          };
          socket.onmessage = ({ data }) => {
            for (const said of data.split("\n").map((line) => JSON.parse(line))) {
              if (said.connected) say({ id: 2, publish: { channel: topic, data: long } });
              if (said.publication) {
                told.own = said.publication.data === long;
                socket.close(1000);
              }
            }
          };
          socket.onclose = ({ code }) => {
            told.code = code;
            const raw = new WebSocket(urls.raw);
            raw.onopen = () => raw.send(long);
            raw.onmessage = ({ data }) => {
              told.raw = data === long;
              raw.close(1000);
            };
            raw.onclose = () => resolve(told);
          };
          socket.onerror = () => reject(new Error("it does not open"));
        });
      const told = await within(page.evaluate(run, { urls, topic, subprotocol: SUBPROTOCOL, long: LONG }), "both");
      assert.deepEqual(told, { protocol: SUBPROTOCOL, own: true, raw: true, code: 1000 });
      saw("Chromium", "connects", "subscribes", "publishes", "receives", "closes", "raw");
    } finally {
      await browser.close();
    }
  });
});

// The table says of no library more, nor of another version, than what was seen just now.
after(() => {
  const page = readFileSync(new URL("../../docs/INTEROP.md", import.meta.url), "utf8");
  const { devDependencies } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));
  for (const library of [...Object.keys(LIBRARIES), "rpc-websockets"]) {
    const all = ["connects", "subscribes", "publishes", "receives", "closes", "raw"];
    assert.deepEqual(new Set(seen.get(library)), new Set(all), library);
    const row = `| ${library} ${devDependencies[library]} |`;
    assert.ok(page.includes(row), `docs/INTEROP.md has no row that begins with "${row}"`);
  }
});
