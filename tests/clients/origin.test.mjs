// A web page of somebody else's must not drive a node in development mode, whatever name it is loaded under.
// A witness listens: not what the browser reports counts, but that nothing arrived.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, describe, it } from "node:test";
import { WebSocketServer } from "ws";
import { channel, Client, INTERNAL, launchBrowser, post, PUBLIC, within } from "./support.mjs";

const EVIL = "evil.example";
const target = channel();
// What each method would do if it were allowed.
const BODIES = { publish: { channel: target, data: "evil" }, disconnect: { user: "anybody" }, drain: {} };
let browser, server, heard, witness;

before(async () => {
  browser = await launchBrowser(`--host-resolver-rules=MAP ${EVIL} 127.0.0.1`);
  // The stranger's own site. It also grants everything, which shows that the browser alone would let it all through.
  heard = [];
  server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "POST") heard.push(body);
    response.setHeader("access-control-allow-origin", "*").setHeader("access-control-allow-headers", "*");
    response.setHeader("content-type", "text/html").end("<!doctype html><title>Kittens</title>");
  });
  new WebSocketServer({ server });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  witness = await Client.connect();
  await witness.subscribe(target);
});

after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
  await witness?.close();
});

describe("a page of a foreign origin", () => {
  let page;
  before(async () => (page = await visit(`http://${EVIL}:${server.address().port}/`)));
  after(() => page?.context().close());

  it("could do it all to a node that allowed it", async () => {
    const own = `127.0.0.1:${server.address().port}`;
    assert.equal(await opens(page, `ws://${own}/ws`), "open");
    await send(page, `http://${own}/api/v1/publish`, "application/json", "cors");
    await send(page, `http://${own}/api/v1/publish`, "text/plain", "no-cors");
    assert.equal(heard.length, 2);
  });

  for (const host of ["127.0.0.1", "localhost"]) {
    it(`opens no WebSocket to ${host}`, async () => {
      assert.equal(await opens(page, `ws://${host}:${port(PUBLIC)}/ws`), "refused");
      assert.equal(await opens(page, `ws://${host}:${port(PUBLIC)}/raw/${target}`), "refused");
    });

    it(`publishes nothing through ${host}`, async () => {
      for (const url of [`http://${host}:${port(INTERNAL)}/api/v1/publish`, `http://${host}:${port(PUBLIC)}/publish`]) {
        assert.equal(await send(page, url, "application/json", "cors"), "refused");
        await send(page, url, "text/plain", "no-cors");
        await send(page, url, "application/x-www-form-urlencoded", "no-cors");
      }
      await heardNothing();
    });

    it(`controls nothing through ${host}`, async () => {
      for (const method of ["disconnect", "drain"]) {
        const url = `http://${host}:${port(INTERNAL)}/api/v1/${method}`;
        assert.equal(await send(page, url, "application/json", "cors"), "refused");
        await send(page, url, "text/plain", "no-cors");
      }
      await isUnharmed();
    });
  }

  it("cannot do it from a frame without an origin either", async () => {
    const url = `ws://127.0.0.1:${port(PUBLIC)}/ws`;
    const outcome = page.evaluate((url) => new Promise((resolve) => {
      addEventListener("message", ({ data }) => resolve(data));
      const frame = document.createElement("iframe");
      frame.sandbox = "allow-scripts";
      frame.srcdoc = `<script>const s = new WebSocket("${url}"); s.onopen = () => parent.postMessage("open", "*");
        s.onerror = () => parent.postMessage("refused", "*")</script>`;
      document.body.append(frame);
    }), url);
    assert.equal(await within(outcome, "the frame"), "refused");
  });
});

describe("DNS rebinding: a page under a foreign name that now leads to the node itself", () => {
  it("opens no WebSocket", async () => {
    const page = await visit(`http://${EVIL}:${port(PUBLIC)}/demo/`);
    assert.equal(await opens(page, `ws://${EVIL}:${port(PUBLIC)}/ws`), "refused");
    assert.equal(await page.locator('body[data-open="1"]').count(), 0);
    await page.context().close();
  });

  it("publishes nothing from the public listener", async () => {
    const page = await visit(`http://${EVIL}:${port(PUBLIC)}/`);
    assert.equal(await send(page, `http://${EVIL}:${port(INTERNAL)}/api/v1/publish`, "application/json", "cors"), "refused");
    await send(page, `http://${EVIL}:${port(INTERNAL)}/api/v1/publish`, "text/plain", "no-cors");
    await send(page, `http://${EVIL}:${port(PUBLIC)}/publish`, "application/json", "cors");
    await heardNothing();
    await page.context().close();
  });

  it("publishes and controls nothing from the internal listener, its own origin", async () => {
    const page = await visit(`http://${EVIL}:${port(INTERNAL)}/livez`);
    for (const method of ["publish", "disconnect", "drain"]) {
      assert.equal(await send(page, `http://${EVIL}:${port(INTERNAL)}/api/v1/${method}`, "application/json", "cors"), 403);
    }
    await heardNothing();
    await isUnharmed();
    await page.context().close();
  });
});

// Not the network's word for it: a publication that is allowed comes through, and is the first that the witness gets.
async function heardNothing() {
  const mark = Math.random();
  assert.equal((await post("publish", { channel: target, data: mark })).status, 200);
  assert.equal((await witness.publication(target)).data, mark);
}

async function isUnharmed() {
  assert.ok((await witness.ask({ ping: {} })).pong);
  assert.equal((await fetch(`${INTERNAL}/readyz`)).status, 200);
}

function port(url) {
  return new URL(url).port;
}

// A stranger's page has no Content-Security-Policy of ours that would hold it back.
async function visit(url) {
  const page = await (await browser.newContext({ bypassCSP: true })).newPage();
  await page.goto(url);
  assert.equal(new URL(await page.evaluate(() => location.href)).hostname, EVIL);
  return page;
}

function opens(page, url) {
  const outcome = page.evaluate((url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("refused");
  }), url);
  return within(outcome, `WebSocket to ${url}`);
}

// "refused" is what a page sees of an answer that it may not read.
function send(page, url, type, mode) {
  const body = JSON.stringify(BODIES[url.split("/").at(-1)]);
  const outcome = page.evaluate(
    ([url, type, mode, body]) => fetch(url, { method: "POST", mode, headers: { "content-type": type }, body }).then((r) => r.status, () => "refused"),
    [url, type, mode, body],
  );
  return within(outcome, `POST ${url}`);
}
