// The WebSocket as a browser's page sees it, and permessage-deflate by the bytes that go over the wire.

import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { after, before, describe, it } from "node:test";
import { channel, Client, launchBrowser, post, PUBLIC, SUBPROTOCOL, within, wsUrl } from "./support.mjs";

describe("a page in Chromium", () => {
  let browser, page;
  before(async () => {
    browser = await launchBrowser();
    page = await (await browser.newContext()).newPage();
    await page.goto(`${PUBLIC}/`);
  });
  after(() => browser?.close());

  // Runs in the page with `url`, and `next(ws, event)` to wait for an event.
  const inPage = (url, body, argument) =>
    within(page.evaluate(`(async (url, argument) => {
      const next = (ws, name) => new Promise((resolve) => ws.addEventListener(name, resolve, { once: true }));
      return (${body})(url, argument, next);
    })(${JSON.stringify(url)}, ${JSON.stringify(argument ?? null)})`), "the page", 20_000);

  it("goes through the states and sees its events in order", async () => {
    const seen = await inPage(wsUrl("/echo"), async (url, _, next) => {
      const ws = new WebSocket(url);
      const seen = [["new", ws.readyState]];
      for (const name of ["open", "message", "error", "close"]) {
        ws.addEventListener(name, (event) => seen.push([name, ws.readyState, event.data ?? event.code ?? null]));
      }
      await next(ws, "open");
      for (let n = 0; n < 20; n++) ws.send(String(n));
      while (seen.length < 22) await next(ws, "message");
      ws.close();
      seen.push(["closing", ws.readyState]);
      await next(ws, "close");
      return seen;
    });
    const messages = Array.from({ length: 20 }, (_, n) => ["message", 1, String(n)]);
    assert.deepEqual(seen, [["new", 0], ["open", 1, null], ...messages, ["closing", 2], ["close", 3, 1005]]);
  });

  it("gets bytes as it asks for them", async () => {
    const got = await inPage(wsUrl("/echo"), async (url, _, next) => {
      const ws = new WebSocket(url);
      await next(ws, "open");
      const bytes = Uint8Array.from({ length: 256 }, (_, n) => n);
      const got = [ws.binaryType];
      ws.send(bytes);
      const blob = (await next(ws, "message")).data;
      got.push(blob.constructor.name, [...new Uint8Array(await blob.arrayBuffer())].every((byte, n) => byte === n));
      ws.binaryType = "arraybuffer";
      ws.send(new Blob([bytes]));
      const buffer = (await next(ws, "message")).data;
      got.push(buffer.constructor.name, buffer.byteLength);
      ws.send("Grüße 👋");
      got.push((await next(ws, "message")).data);
      ws.close();
      return got;
    });
    assert.deepEqual(got, ["blob", "Blob", true, "ArrayBuffer", 256, "Grüße 👋"]);
  });

  it("sees what it has not sent yet go down to nothing", async () => {
    const [first, last, sizes] = await inPage(wsUrl("/echo"), async (url, _, next) => {
      const ws = new WebSocket(url);
      await next(ws, "open");
      ws.binaryType = "arraybuffer";
      for (let n = 0; n < 8; n++) ws.send(new Uint8Array(1 << 20));
      const first = ws.bufferedAmount;
      const sizes = [];
      for (let n = 0; n < 8; n++) sizes.push((await next(ws, "message")).data.byteLength);
      const last = ws.bufferedAmount;
      ws.close();
      return [first, last, sizes];
    });
    assert.ok(first > 1 << 20, `${first}`);
    assert.deepEqual([last, sizes], [0, Array(8).fill(1 << 20)]);
  });

  it("learns the protocol and the extensions", async () => {
    const chosen = (protocols) => inPage(wsUrl("/ws"), async (url, protocols, next) => {
      const ws = new WebSocket(url, protocols);
      const opened = await Promise.race([next(ws, "open"), next(ws, "close")]);
      const { protocol, extensions } = ws;
      ws.close();
      return opened.type === "open" ? { protocol, extensions } : { code: opened.code };
    }, protocols);
    const usual = await chosen([]);
    assert.equal(usual.protocol, "");
    assert.match(usual.extensions, /^permessage-deflate; server_no_context_takeover; client_no_context_takeover$/);
    assert.equal((await chosen(["unknown", SUBPROTOCOL])).protocol, SUBPROTOCOL);
    assert.deepEqual(await chosen(["unknown"]), { code: 1006 });
  });

  it("gets codes and reasons both ways", async () => {
    const closed = (path, body) => inPage(wsUrl(path), body, null);
    const own = await closed("/echo", async (url, _, next) => {
      const ws = new WebSocket(url);
      await next(ws, "open");
      ws.close(4321, "enough");
      const { code, reason, wasClean } = await next(ws, "close");
      return { code, reason, wasClean };
    });
    assert.deepEqual(own, { code: 4321, reason: "", wasClean: true });

    const ours = await closed("/ws", async (url, _, next) => {
      const open = async () => {
        const ws = new WebSocket(url);
        await next(ws, "open");
        return ws;
      };
      const first = await open();
      first.send(JSON.stringify({ id: 1, connect: {} }));
      const { session } = JSON.parse((await next(first, "message")).data).connected;
      const second = await open();
      second.send(JSON.stringify({ id: 1, connect: { session } }));
      const { code, reason, wasClean } = await next(first, "close");
      second.close();
      return { code, reason, wasClean };
    });
    assert.deepEqual(ours, { code: 4506, reason: "replaced", wasClean: true });
  });

  it("gets publications compressed", async () => {
    const proxy = await countingProxy();
    const name = channel();
    const subscribed = inPage(proxy.url("/ws"), async (url, [name, count], next) => {
      const ws = new WebSocket(url);
      await next(ws, "open");
      ws.send(JSON.stringify({ id: 1, subscribe: { channel: name } }));
      let got = 0;
      while (got < count) got += (await next(ws, "message")).data.split("\n").filter((line) => line.includes('"publication"')).length;
      ws.close();
      return ws.extensions;
    }, [name, PUBLICATIONS]);
    await untilSubscribed(name);
    const before = proxy.down;
    await publishAll(name);
    assert.match(await subscribed, /^permessage-deflate/);
    assertSmaller(proxy.down - before);
    await proxy.close();
  });
});

describe("permessage-deflate with ws", () => {
  it("makes publications smaller on the wire, and only for who asks", async () => {
    const sizes = {};
    for (const perMessageDeflate of [true, false]) {
      const proxy = await countingProxy();
      const name = channel();
      const client = await Client.open(proxy.url("/ws"), SUBPROTOCOL, { perMessageDeflate });
      await client.ask({ connect: {} });
      await client.subscribe(name);
      const before = proxy.down;
      await publishAll(name);
      for (let n = 0; n < PUBLICATIONS; n++) assert.equal((await client.publication(name)).data.n, n);
      sizes[perMessageDeflate] = proxy.down - before;
      assert.match(client.ws.extensions, perMessageDeflate ? /^permessage-deflate/ : /^$/);
      await client.close();
      await proxy.close();
    }
    assertSmaller(sizes.true);
    assert.ok(sizes.false > PUBLICATIONS * 2_000, `${sizes.false}`);
  });

  it("takes what a client compresses, with whatever windows it asks for", async () => {
    for (const options of [
      { serverMaxWindowBits: 9 },
      { clientMaxWindowBits: 9 },
      { serverNoContextTakeover: true, clientNoContextTakeover: true },
    ]) {
      const client = await Client.open(wsUrl("/echo"), [], { perMessageDeflate: { threshold: 0, ...options } });
      client.received = (data) => client.keep(data.toString());
      for (const text of ["", "short", "Grüße 👋 ".repeat(5_000)]) {
        client.ws.send(text);
        assert.equal(await client.next(), text);
      }
      await client.close();
    }
  });
});

const PUBLICATIONS = 20;

// Words, as an application would send them: about 2 KB each, no two alike.
async function publishAll(name) {
  for (let n = 0; n < PUBLICATIONS; n++) {
    const lines = Array.from({ length: 40 }, (_, line) => ({ line, price: (n * 7919 + line * 104729) % 10_000, name: "a row of a table" }));
    const answer = await post("publish", { channel: name, data: { n, lines } });
    assert.equal(answer.status, 200, await answer.text());
  }
}

async function untilSubscribed(name) {
  const deadline = Date.now() + 5_000;
  while (Date.now() < deadline) {
    const { channels } = await (await post("channels", { prefix: name })).json();
    if (channels.length > 0) return;
  }
  assert.fail(`nobody subscribed to ${name}`);
}

function assertSmaller(bytes) {
  assert.ok(bytes > 0 && bytes < PUBLICATIONS * 1_000, `${bytes} bytes for ${PUBLICATIONS} publications of more than 2,000`);
}

// Between a client and the node: counts what the node sends.
async function countingProxy() {
  const { hostname, port } = new URL(PUBLIC);
  const proxy = { down: 0, url: (path) => `ws://127.0.0.1:${server.address().port}${path}` };
  const sockets = new Set();
  const server = createServer((client) => {
    const node = connect(port, hostname);
    for (const socket of [client, node]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => (client.destroy(), node.destroy()));
    }
    node.on("data", (data) => (proxy.down += data.length));
    client.pipe(node).pipe(client);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  proxy.close = () => (sockets.forEach((socket) => socket.destroy()), new Promise((resolve) => server.close(resolve)));
  return proxy;
}
