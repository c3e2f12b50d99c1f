// What the client tests share: where the node is, a client that speaks the JSON protocol, and a browser.
// Every wait has a deadline and says what it waited for.

import { after } from "node:test";
import { chromium } from "playwright-core";
import { Receiver, Sender, WebSocket } from "ws";

export const PUBLIC = process.env.SKYWAVE_PUBLIC ?? "http://127.0.0.1:8000";
export const INTERNAL = process.env.SKYWAVE_INTERNAL ?? "http://127.0.0.1:8001";
export const PUBLIC_2 = process.env.SKYWAVE_PUBLIC_2;
export const INTERNAL_2 = process.env.SKYWAVE_INTERNAL_2;
// Over a Redis backplane the node may have no presence yet.
export const PRESENCE = process.env.SKYWAVE_PRESENCE !== "0";
// Outside development mode a node takes what a client says of itself from its token only.
export const INFO = process.env.SKYWAVE_INFO !== "0";
export const SUBPROTOCOL = "skywave.v1.json";

const DEADLINE_MS = 5_000;
let channels = 0;

// A test that failed leaves its connections open, and they would keep the process alive.
const sockets = new Set();
after(() => sockets.forEach((ws) => ws.terminate()));

// A channel of this test alone: files run against one node, maybe at the same time.
export function channel(namespace) {
  const name = `t-${process.pid.toString(36)}-${Date.now().toString(36)}-${++channels}`;
  return namespace ? `${namespace}:${name}` : name;
}

export { Receiver, Sender };

export function wsUrl(path, base = PUBLIC) {
  return base.replace(/^http/, "ws") + path;
}

export function within(promise, what, ms = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A WebSocket whose messages wait in a list until a test asks for them.
export class Socket {
  #waiting = [];
  #asking = [];

  static async open(url, protocols = [], options = {}) {
    const socket = new this();
    socket.ws = new WebSocket(url, protocols, options);
    sockets.add(socket.ws);
    socket.closed = new Promise((resolve) => socket.ws.on("close", (code, reason) => resolve({ code, reason: reason.toString() })));
    socket.ws.on("message", (data, binary) => socket.received(data, binary));
    const opened = new Promise((resolve, reject) => socket.ws.once("open", resolve).once("error", reject));
    await within(opened, `open ${url}`);
    socket.ws.on("error", () => {}); // the close event, which follows, tells it
    return socket;
  }

  received(data, binary) {
    this.keep({ data, binary });
  }

  keep(message) {
    const at = this.#asking.findIndex(({ wanted }) => wanted(message));
    if (at < 0) this.#waiting.push(message);
    else this.#asking.splice(at, 1)[0].resolve(message);
  }

  // The oldest message that is wanted, taken out of the list.
  next(wanted = () => true, what = "next message") {
    const at = this.#waiting.findIndex(wanted);
    if (at >= 0) return Promise.resolve(this.#waiting.splice(at, 1)[0]);
    const seen = () => JSON.stringify(this.#waiting).slice(0, 300);
    return within(new Promise((resolve) => this.#asking.push({ wanted, resolve })), what).catch((error) => {
      throw new Error(`${error.message}; instead: ${seen()}`);
    });
  }

  // What came and nobody asked for.
  get rest() {
    return this.#waiting;
  }

  async close(code = 1000) {
    this.ws.close(code);
    return within(this.closed, "close");
  }
}

// A client of the JSON protocol.
export class Client extends Socket {
  #id = 0;

  // Connected, with `connect` as its first frame.
  static async connect({ base = PUBLIC, ...connect } = {}) {
    const client = await this.open(wsUrl("/ws", base), SUBPROTOCOL);
    Object.assign(client, (await client.ask({ connect })).connected);
    return client;
  }

  received(data) {
    for (const line of data.toString().split("\n")) this.keep(JSON.parse(line));
  }

  say(...commands) {
    this.ws.send(commands.map((command) => (typeof command === "string" ? command : JSON.stringify(command))).join("\n"));
  }

  // The reply to one command: what was asked for, or `error`.
  ask(command) {
    const id = ++this.#id;
    this.say({ id, ...command });
    return this.next((said) => said.id === id, `reply to ${JSON.stringify(command).slice(0, 200)}`);
  }

  async subscribe(channel, options = {}) {
    const { subscribed, error } = await this.ask({ subscribe: { channel, ...options } });
    if (error) throw new Error(`subscribe to ${channel}: ${JSON.stringify(error)}`);
    return subscribed;
  }

  async publication(channel) {
    const wanted = (said) => said.publication?.channel === channel;
    return (await this.next(wanted, `publication on ${channel}`)).publication;
  }
}

export function post(method, body, { base = INTERNAL, type = "application/json" } = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return fetch(`${base}/api/v1/${method}`, { method: "POST", headers: { "content-type": type }, body: text });
}

export function launchBrowser(...args) {
  const usual = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: [...usual, ...args] });
}
