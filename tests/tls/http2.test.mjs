// WebSockets over HTTP/2 (RFC 8441) against a node that ends TLS itself: Node's http2, a browser whose page came from the node,
// and HAProxy in front.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http2 from "node:http2";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { freePorts, kill, root, skywave, start, until, untilAnswers } from "../cluster/processes.mjs";
import { channel, Client, launchBrowser, post, Receiver, Sender, SUBPROTOCOL, within } from "../clients/support.mjs";

const directory = join(root, "tests/artefacts/tls");
const [certificate, key] = ["certificate.pem", "key.pem"].map((name) => join(directory, name));
let node, haproxy, base, internal, balancer;

before(async () => {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
    { stdio: "ignore" });
  const [publicPort, internalPort, balancerPort] = await freePorts(3);
  const listen = ["--listen", `127.0.0.1:${publicPort}`, "--internal-listen", `127.0.0.1:${internalPort}`];
  const settings = { SKYWAVE__PUBLIC__TLS: `{ certificate = "${certificate}", key = "${key}" }`, SKYWAVE__DEBUG__ECHO: "true" };
  node = start("node", directory, skywave, [...listen, "--dev"], settings);
  [base, internal, balancer] = [`https://127.0.0.1:${publicPort}`, `http://127.0.0.1:${internalPort}`, `https://127.0.0.1:${balancerPort}`];
  await untilAnswers(node, `${internal}/readyz`);

  writeFileSync(join(directory, "both.pem"), readFileSync(certificate, "utf8") + readFileSync(key, "utf8"));
  const file = join(directory, "haproxy.cfg");
  writeFileSync(file, `
    defaults
      mode http
      timeout connect 3s
      timeout client 30s
      timeout server 30s
      timeout tunnel 1h
    frontend public
      bind 127.0.0.1:${balancerPort} ssl crt ${join(directory, "both.pem")} alpn h2,http/1.1
      default_backend gateways
    backend gateways
      server gw 127.0.0.1:${publicPort} ssl verify none
`);
  haproxy = start("haproxy", directory, "haproxy", ["-db", "-f", file]);
  const listens = () => new Promise((resolve) => {
    const socket = connect(balancerPort, "127.0.0.1", () => (socket.destroy(), resolve(true)));
    socket.on("error", () => resolve(false));
  });
  await until(() => "HAProxy listens", listens);
});

after(() => Promise.all([node, haproxy].filter(Boolean).map(kill)));

// WebSockets on one HTTP/2 connection.
class Session {
  static async open(url) {
    const session = new this();
    session.http = http2.connect(url, { rejectUnauthorized: false });
    session.http.on("error", () => {});
    await within(once(session.http, "remoteSettings"), "settings");
    return session;
  }

  // A WebSocket at this path; its framing is that of `ws`.
  async socket(path, headers = {}) {
    const stream = this.http.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13", ...headers });
    stream.on("error", () => {});
    const [answer] = await within(once(stream, "response"), `an answer to ${path}`);
    return new Stream(stream, answer);
  }

  close() {
    this.http.destroy();
  }
}

class Stream {
  #waiting = [];
  #asking = [];
  #id = 0;

  constructor(stream, answer) {
    Object.assign(this, { stream, answer, status: answer[":status"] });
    if (this.status !== 200) return;
    this.sender = new Sender(stream);
    this.receiver = new Receiver({ isServer: false });
    this.receiver.on("message", (data) => data.toString().split("\n").forEach((line) => this.#keep(line)));
    this.receiver.on("conclude", (code) => this.#keep(`close ${code}`));
    stream.on("data", (data) => this.receiver.write(data));
  }

  #keep(line) {
    const asking = this.#asking.shift();
    if (asking) asking(line);
    else this.#waiting.push(line);
  }

  next() {
    if (this.#waiting.length > 0) return Promise.resolve(this.#waiting.shift());
    return within(new Promise((resolve) => this.#asking.push(resolve)), "next message");
  }

  async nextWith(word) {
    for (;;) {
      const said = await this.next();
      if (said.includes(word)) return JSON.parse(said);
    }
  }

  send(text) {
    this.sender.send(text, { binary: false, mask: true, fin: true, compress: false });
  }

  async ask(command) {
    const id = ++this.#id;
    this.send(JSON.stringify({ id, ...command }));
    return this.nextWith(`"id":${id}`);
  }

  async body() {
    let text = "";
    for await (const data of this.stream) text += data;
    return text;
  }
}

for (const [name, url] of [["the node", () => base], ["HAProxy", () => balancer]]) {
  it("the node tells when its certificate ends", async () => {
  const said = execFileSync("openssl", ["x509", "-enddate", "-noout", "-in", certificate], { encoding: "utf8" });
  const metrics = await (await fetch(`${internal}/metrics`)).text();
  const [, told] = /^skywave_certificate_expiry_timestamp_seconds\{.*listener="public".*\} (\S+)$/m.exec(metrics);
  assert.equal(Number(told) * 1000, Date.parse(said.replace("notAfter=", "")));
});

describe(`Node's http2 through ${name}`, () => {
    let session;
    before(async () => {
      session = await Session.open(url());
    });
    after(() => session.close());

    it("is told that a WebSocket may be asked for", () => {
      assert.equal(session.http.remoteSettings.enableConnectProtocol, true);
    });

    it("speaks the protocol and closes in good order", async () => {
      const socket = await session.socket("/ws", { "sec-websocket-protocol": `other, ${SUBPROTOCOL}` });
      assert.deepEqual([socket.status, socket.answer["sec-websocket-protocol"]], [200, SUBPROTOCOL]);
      const name = channel();
      assert.ok((await socket.ask({ connect: {} })).connected);
      assert.ok((await socket.ask({ subscribe: { channel: name } })).subscribed);
      assert.equal((await post("publish", { channel: name, data: { over: "h2" } }, { base: internal })).status, 200);
      assert.deepEqual((await socket.nextWith("publication")).publication.data, { over: "h2" });
      socket.sender.close(1000, "", true);
      assert.equal(await socket.next(), "close 1000");
    });

    it("has many on one connection", async () => {
      const name = channel();
      const sockets = await Promise.all(Array.from({ length: 80 }, () => session.socket("/ws")));
      await Promise.all(sockets.map((socket) => socket.ask({ subscribe: { channel: name } })));
      for (let n = 0; n < 5; n++) await post("publish", { channel: name, data: n }, { base: internal });
      for (const socket of sockets) {
        for (let n = 0; n < 5; n++) assert.equal((await socket.nextWith("publication")).publication.data, n);
        socket.sender.close(1000, "", true);
      }
    });

    it("is refused with a reason", async () => {
      const wrong = await session.socket("/ws", { "sec-websocket-version": "8" });
      const foreign = await session.socket("/ws", { origin: "https://evil.example" });
      const unknown = await session.socket("/ws", { "sec-websocket-protocol": "other" });
      assert.deepEqual([foreign.status, unknown.status], [403, 400]);
      assert.match(await unknown.body(), /skywave\.v1\.json/);
      assert.ok([400, 426].includes(wrong.status), String(wrong.status));
    });
  });
}

describe("on one HTTP/2 connection", () => {
  it("a stream that nobody reads does not hold the others up", async () => {
    const session = await Session.open(base);
    const name = channel();
    const [slow, fast] = [await session.socket("/ws"), await session.socket("/ws")];
    for (const socket of [slow, fast]) await socket.ask({ subscribe: { channel: name } });
    slow.stream.pause();
    const data = "x".repeat(30_000);
    for (let n = 0; n < 100; n++) {
      assert.equal((await post("publish", { channel: name, data: { n, data } }, { base: internal })).status, 200);
      assert.equal((await fast.nextWith("publication")).publication.data.n, n);
    }
    slow.stream.resume();
    await slow.nextWith('"n":0');
    session.close();
  });
});

describe("a page in Chromium that came over HTTP/2", () => {
  it("opens its WebSocket on the same connection", async () => {
    const proxy = await countingProxy(new URL(base).port);
    const browser = await launchBrowser();
    const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
    await page.goto(`https://127.0.0.1:${proxy.port}/`);
    assert.equal(await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol), "h2");
    const before = proxy.connections;
    const said = await within(page.evaluate(async (url) => {
      const sockets = await Promise.all(Array.from({ length: 5 }, () => new Promise((resolve, reject) => {
        const ws = new WebSocket(url);
        ws.onopen = () => resolve(ws);
        ws.onerror = () => reject(new Error("refused"));
      })));
      return Promise.all(sockets.map((ws, n) => new Promise((resolve) => {
        const said = [];
        ws.onmessage = ({ data }) => (said.push(data), ws.close(4000 + n, "enough"));
        ws.onclose = ({ code, wasClean }) => resolve([...said, code, wasClean]);
        ws.send(`socket ${n}`);
      })));
    }, `wss://127.0.0.1:${proxy.port}/echo`), "the page", 20_000);
    assert.deepEqual(said, [0, 1, 2, 3, 4].map((n) => [`socket ${n}`, 4000 + n, true]));
    assert.equal(proxy.connections, before, "no connection of its own for any of them");
    await browser.close();
    await proxy.close();
  });

  it("has HTTP/1.1 on the same port for who wants it", async () => {
    const client = await Client.open(base.replace("https", "wss") + "/ws", SUBPROTOCOL, { rejectUnauthorized: false });
    assert.ok((await client.ask({ connect: {} })).connected);
    await client.close();
  });
});

// Counts the connections that are made to a port.
async function countingProxy(port) {
  const sockets = new Set();
  const server = createServer((client) => {
    proxy.connections++;
    const node = connect(port, "127.0.0.1");
    for (const socket of [client, node]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => (client.destroy(), node.destroy()));
    }
    client.pipe(node).pipe(client);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => (sockets.forEach((socket) => socket.destroy()), new Promise((resolve) => server.close(resolve)));
  const proxy = { connections: 0, port: server.address().port, close };
  return proxy;
}
