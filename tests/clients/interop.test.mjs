// WebSocket libraries that others have written, each as its own documentation uses it: connect, subscribe, publish, receive, close.
// Prints the table that stands in docs/INTEROP.md, and fails if that says something else; INTEROP_WRITE=1 writes it.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { channel, Client, launchBrowser, PUBLIC, SUBPROTOCOL, within, wsUrl } from "./support.mjs";

const require = createRequire(new URL("./interop/package.json", import.meta.url));
const DOCUMENT = new URL("../../docs/INTEROP.md", import.meta.url);
const [BEGIN, END] = ["<!-- The table is written by tests/clients/interop.test.mjs. -->", "<!-- end -->"];
const { WebSocket } = require("ws");
const ours = createRequire(import.meta.url);
const SockJS = ours("sockjs-client");
const SOCKJS_VERSION = ours("sockjs-client/package.json").version;
const url = wsUrl("/ws");
const version = (name) => JSON.parse(readFileSync(new URL(`./interop/node_modules/${name}/package.json`, import.meta.url), "utf8")).version;

// Short, not ASCII, and longer than a frame with a length of seven or sixteen bits' first values.
const PAYLOADS = [{ n: 1 }, "žluťoučký kůň \u{1f40e}  \"quoted\"", { long: "x".repeat(5_000) }, { longer: "é".repeat(20_000) }];

// Each gets `took` for the text of a frame, and answers with `say` and `close`, which resolves with the close code that it saw.
const libraries = {
  async ws(took) {
    const ws = new WebSocket(url, SUBPROTOCOL);
    ws.on("message", (data) => took(data.toString()));
    await opened(ws, "open");
    assert.equal(ws.protocol, SUBPROTOCOL);
    return { say: (text) => ws.send(text), close: () => closing(ws, "close", () => ws.close(1000), (code) => code) };
  },

  async websocket(took) {
    const { client: Websocket } = require("websocket");
    const client = new Websocket();
    const connecting = new Promise((resolve, reject) => client.on("connect", resolve).on("connectFailed", reject));
    client.connect(url, SUBPROTOCOL);
    const connection = await within(connecting, "connect");
    connection.on("message", ({ utf8Data }) => took(utf8Data));
    return { say: (text) => connection.sendUTF(text), close: () => closing(connection, "close", () => connection.close(), (code) => code) };
  },

  async "faye-websocket"(took) {
    const { Client: Faye } = require("faye-websocket");
    const ws = new Faye(url, [SUBPROTOCOL]);
    ws.on("message", ({ data }) => took(data));
    await opened(ws, "open");
    return { say: (text) => ws.send(text), close: () => closing(ws, "close", () => ws.close(1000), ({ code }) => code) };
  },

  async "nodejs-websocket"(took) {
    const connection = require("nodejs-websocket").connect(url, { protocols: [SUBPROTOCOL] });
    connection.on("text", took);
    await opened(connection, "connect");
    return { say: (text) => connection.sendText(text), close: () => closing(connection, "close", () => connection.close(1000), (code) => code) };
  },

  // For browsers: it looks for a global.
  async sockette(took) {
    const had = globalThis.WebSocket;
    globalThis.WebSocket = WebSocket;
    const Sockette = require("sockette");
    let end;
    const ended = new Promise((resolve) => (end = resolve));
    try {
      const socket = await within(
        new Promise((onopen) => {
          const socket = new Sockette(url, {
            protocols: SUBPROTOCOL,
            onopen: () => onopen(socket),
            onmessage: ({ data }) => took(data),
            onclose: ({ code }) => end(code),
          });
        }),
        "open",
      );
      return {
        say: (text) => socket.send(text),
        close: () => {
          socket.close(1000);
          return within(ended, "close");
        },
      };
    } finally {
      globalThis.WebSocket = had;
    }
  },

  // Its requests are our commands: it is told where their ids stand.
  async "websocket-as-promised"(took) {
    const WebSocketAsPromised = require("websocket-as-promised");
    const socket = new WebSocketAsPromised(url, {
      createWebSocket: (url) => new WebSocket(url, SUBPROTOCOL),
      extractMessageData: (event) => event,
      packMessage: (data) => JSON.stringify(data),
      unpackMessage: (data) => JSON.parse(data),
      attachRequestId: (data, id) => ({ ...data, id }),
      extractRequestId: (data) => data?.id,
    });
    socket.onMessage.addListener((data) => took(data.toString()));
    await within(socket.open(), "open");
    return {
      say: (text) => {
        const { id, ...command } = JSON.parse(text);
        return within(socket.sendRequest(command, { requestId: id }), `answer ${id}`);
      },
      close: async () => {
        const closed = new Promise((resolve) => socket.onClose.addListener(resolve));
        await within(socket.close(1000), "close");
        const event = await closed;
        // With `ws` its listeners get the code itself.
        return event.code ?? event;
      },
    };
  },
};

const rows = [];
let browser;
before(async () => (browser = await launchBrowser()));
after(() => browser?.close());

describe("a library of others", () => {
  for (const [name, open] of Object.entries(libraries)) {
    it(`${name} connects, subscribes, publishes, receives and closes`, async () => {
      const channelName = channel();
      const inbox = new Inbox();
      const { say, close } = await open((text) => inbox.took(text));
      const code = await speak(channelName, inbox, say, close);
      rows.push([name, version(name), "`/ws`", code]);
    });
  }

  // From Node; sockjs.test.mjs has its ways from pages, too.
  for (const transport of ["websocket", "xhr-streaming", "xhr-polling", "eventsource"]) {
    it(`sockjs-client does, by ${transport}`, async () => {
      const inbox = new Inbox();
      const sock = new SockJS(`${PUBLIC}/sockjs`, null, { transports: [transport], timeout: 5_000 });
      const ended = new Promise((resolve) => (sock.onclose = ({ code }) => resolve(code)));
      sock.onmessage = ({ data }) => inbox.took(data);
      await within(new Promise((resolve) => (sock.onopen = resolve)), "open");
      const close = () => {
        sock.close(1000);
        return within(ended, "close");
      };
      const code = await speak(channel(), inbox, (text) => sock.send(text), close);
      rows.push(["sockjs-client", SOCKJS_VERSION, `\`/sockjs\` by ${transport}`, code]);
    });
  }

  it("a browser's own WebSocket does", async () => {
    const page = await browser.newPage();
    const inbox = new Inbox();
    await page.exposeFunction("took", (text) => inbox.took(text));
    await page.goto(PUBLIC);
    await page.evaluate(
      ([url, protocol]) =>
        new Promise((resolve, reject) => {
          globalThis.socket = new WebSocket(url, protocol);
          socket.onmessage = ({ data }) => took(data);
          socket.onerror = () => reject(new Error("not opened"));
          socket.onopen = resolve;
        }),
      [url, SUBPROTOCOL],
    );
    const say = (text) => page.evaluate((text) => socket.send(text), text);
    const close = () =>
      page.evaluate(() => {
        const closed = new Promise((resolve) => (socket.onclose = ({ code }) => resolve(code)));
        socket.close(1000);
        return closed;
      });
    const code = await speak(channel(), inbox, say, close);
    rows.push(["the browser's own API", "Chromium", "`/ws`", code]);
    await page.close();
  });

  // It speaks JSON-RPC and nothing else; but over `/raw` what is published is what arrives.
  it("rpc-websockets does, over /raw", async () => {
    const { Client: Rpc } = require("rpc-websockets");
    const name = channel();
    const rpc = new Rpc(wsUrl(`/raw/${name}`), { reconnect: false });
    await opened(rpc, "open");
    const other = await Client.connect();
    await other.subscribe(name);
    const seen = [];
    let isOver;
    const all = new Promise((resolve) => (isOver = resolve));
    rpc.on("said", (...params) => seen.push(params) === PAYLOADS.length + 1 && isOver());
    for (const payload of PAYLOADS) await rpc.notify("said", [payload]);
    for (const payload of PAYLOADS) assert.deepEqual((await other.publication(name)).data, { jsonrpc: "2.0", method: "said", params: [payload] });
    await other.ask({ publish: { channel: name, data: { jsonrpc: "2.0", method: "said", params: ["from another"] } } });
    await within(all, "all notifications");
    assert.deepEqual(seen.map(([params]) => params[0] ?? params), [...PAYLOADS, "from another"]);
    const code = await closing(rpc, "close", () => rpc.close(1000), (code) => code);
    rows.push(["rpc-websockets", version("rpc-websockets"), "`/raw/{channel}`: notifications", code]);
    await other.close();
  });

  it("is in the table of docs/INTEROP.md as it is here", () => {
    const lines = rows.map(([name, version, over, code]) => `| ${name} | ${version} | ${over} | yes | yes | yes | yes | ${code} |`);
    const table = ["| client | version | over | connects | subscribes | publishes | receives | close code it sees |", "|---|---|---|---|---|---|---|---|", ...lines].join("\n");
    console.log(table);
    const text = readFileSync(DOCUMENT, "utf8");
    const [head, rest] = text.split(BEGIN);
    const written = `${head}${BEGIN}\n\n${table}\n\n${END}${rest.split(END)[1]}`;
    if (process.env.INTEROP_WRITE) writeFileSync(DOCUMENT, written);
    else assert.equal(text, written, "INTEROP_WRITE=1 writes it anew");
  });
});

// What a node says, in the order in which it comes.
class Inbox {
  #said = [];
  #asking;

  took(text) {
    this.#said.push(...text.split("\n").filter(Boolean).map((line) => JSON.parse(line)));
    this.#asking?.();
  }

  async next(wanted, what) {
    const found = async () => {
      for (;;) {
        const at = this.#said.findIndex(wanted);
        if (at >= 0) return this.#said.splice(at, 1)[0];
        await new Promise((resolve) => (this.#asking = resolve));
      }
    };
    return within(found(), what);
  }
}

// All that the table says of a library; the code of the close that it saw.
async function speak(name, inbox, say, close) {
  const answer = (id) => inbox.next((said) => said.id === id, `answer ${id}`);
  let id = 0;
  const ask = async (command) => {
    await say(JSON.stringify({ id: ++id, ...command }));
    return answer(id);
  };
  const { connected } = await ask({ connect: {} });
  assert.ok(connected?.client, "connects");
  const { subscribed } = await ask({ subscribe: { channel: name } });
  assert.equal(subscribed?.channel, name, "subscribes");
  const other = await Client.connect();
  await other.subscribe(name);
  for (const data of PAYLOADS) {
    const { published } = await ask({ publish: { channel: name, data } });
    assert.ok(published?.position, "publishes");
    const theirs = await other.publication(name);
    assert.deepEqual([theirs.data, theirs.client], [data, connected.client]);
    const own = await inbox.next((said) => said.publication, "its own publication");
    assert.deepEqual(own.publication.data, data, "receives");
  }
  for (const data of PAYLOADS) await other.ask({ publish: { channel: name, data } });
  for (const data of PAYLOADS) assert.deepEqual((await inbox.next((said) => said.publication, "another's publication")).publication.data, data, "receives");
  const code = await close();
  assert.equal(code, 1000, "closes");
  await other.close();
  return code;
}

function opened(emitter, event) {
  return within(new Promise((resolve, reject) => emitter.on(event, resolve).on("error", reject)), event);
}

function closing(emitter, event, close, read) {
  const closed = new Promise((resolve) => emitter.on(event, (...args) => resolve(read(...args))));
  close();
  return within(closed, "close");
}
