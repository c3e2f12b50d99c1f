// A cookie that says who somebody is must serve the pages that it was made for and no others: a browser sends it along
// whoever asks. The pages are served here, the nodes are ours, and the browser is a real one.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { freePorts, kill, root, skywave, start, untilAnswers } from "../cluster/processes.mjs";
import { launchBrowser, within } from "./support.mjs";

const SECRET = "0123456789abcdef0123456789abcdef";
const FOREIGN = "evil.example";
const channel = "chat:room";
let browser, server, own, foreign, cross, nodes;

function token(claims) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

before(async () => {
  browser = await launchBrowser(`--host-resolver-rules=MAP ${FOREIGN} 127.0.0.1`);
  server = createServer((_, response) => {
    response.setHeader("content-type", "text/html").end("<!doctype html><title>A page</title>");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  // All are one server. Another port is another origin of the same site, so that even a strict cookie goes along; another
  // name is another site.
  [own, foreign, cross] = [`http://localhost:${port}`, `http://127.0.0.1:${port}`, `http://${FOREIGN}:${port}`];
  nodes = {};
  for (const [name, origins] of [["named", [own]], ["everybody", ["*"]], ["default", []]]) {
    nodes[name] = await node(name, origins);
  }
});

after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
  await Promise.all(Object.values(nodes ?? {}).map(({ child }) => kill(child)));
});

async function node(name, origins) {
  const [publicPort, internalPort] = await freePorts(2);
  const listen = ["--listen", `127.0.0.1:${publicPort}`, "--internal-listen", `127.0.0.1:${internalPort}`];
  const child = start(`cookie-${name}`, join(root, "tests/artefacts"), skywave, listen, {
    SKYWAVE__AUTH__TOKENS: `{ keys = [{ alg = "HS256", secret = "${SECRET}" }], cookie = "sid" }`,
    SKYWAVE__PUBLIC__ORIGINS: JSON.stringify(origins),
    SKYWAVE__NAMESPACES__CHAT: '{ subscribe = "token", publish = "subscribers" }',
  });
  await untilAnswers(child, `http://127.0.0.1:${internalPort}/readyz`);
  return { child, port: publicPort };
}

// A page whose visitor is signed in at the node, on every name that the node can be reached by.
async function visit(url, port) {
  const context = await browser.newContext({ bypassCSP: true });
  const value = token({ sub: "ada", skywave: { subscribe: ["chat:*"] } });
  await context.addCookies(["localhost", "127.0.0.1"].map((domain) => ({
    name: "sid", value, domain, path: "/", httpOnly: true, secure: true, sameSite: "None",
  })));
  const page = await context.newPage();
  await page.goto(url);
  // The cookie is really sent: what keeps a stranger out is the node.
  const sent = (await context.cookies(`http://localhost:${port}/ws`)).map(({ name }) => name);
  assert.deepEqual(sent, ["sid"]);
  return page;
}

// What a page sees of a WebSocket: the user it is taken for, "refused" by the handshake, or the code that it was closed with.
function opens(page, url) {
  const outcome = page.evaluate(([url, channel]) => new Promise((resolve) => {
    const socket = new WebSocket(url, "skywave.v1.json");
    let opened = false;
    socket.onopen = () => (opened = true);
    socket.onclose = ({ code }) => resolve(opened ? code : "refused");
    socket.onmessage = ({ data }) => {
      for (const said of data.split("\n").map(JSON.parse)) {
        if (said.connected) socket.send(JSON.stringify({ id: 1, subscribe: { channel } }));
        if (said.subscribed) resolve("signed in");
        if (said.id && said.error) resolve(said.error.code);
      }
    };
  }), [url, channel]);
  return within(outcome, `WebSocket to ${url}`);
}

describe("a cookie that signs in", () => {
  it("serves a page that is named", async () => {
    const { port } = nodes.named;
    const page = await visit(own, port);
    assert.equal(await opens(page, `ws://localhost:${port}/ws`), "signed in");
    await page.context().close();
  });

  for (const [what, url] of [["of another origin of the same site", () => foreign], ["of another site", () => cross]]) {
    it(`does not serve a page ${what}`, async () => {
      for (const host of ["localhost", "127.0.0.1"]) {
        const { port } = nodes.named;
        const page = await visit(url(), port);
        assert.equal(await opens(page, `ws://${host}:${port}/ws`), "refused");
        assert.equal(await opens(page, `ws://${host}:${port}/raw/${channel}`), "refused");
        await page.context().close();
      }
    });

    it(`does not serve a page ${what} where all pages may connect`, async () => {
      const { port } = nodes.everybody;
      const page = await visit(url(), port);
      // It may connect as anybody may. It is not taken for its visitor, and nobody else is let in here.
      assert.equal(await opens(page, `ws://localhost:${port}/raw/${channel}`), "refused");
      const outcome = page.evaluate((url) => new Promise((resolve) => {
        const socket = new WebSocket(url, "skywave.v1.json");
        socket.onopen = () => socket.send(JSON.stringify({ id: 1, connect: {} }));
        socket.onmessage = ({ data }) => resolve(JSON.parse(data).error?.code ?? data);
      }), `ws://localhost:${port}/ws`);
      assert.equal(await within(outcome, "an answer"), "unauthenticated");
      await page.context().close();
    });

    it(`does not serve a page ${what} where no page is named`, async () => {
      const { port } = nodes.default;
      const page = await visit(url(), port);
      assert.equal(await opens(page, `ws://localhost:${port}/ws`), "refused");
      await page.context().close();
    });
  }

  it("serves a page of the node's own host where no page is named", async () => {
    const { port } = nodes.default;
    const page = await visit(`http://localhost:${port}/`, port);
    assert.equal(await opens(page, `ws://localhost:${port}/ws`), "signed in");
    await page.context().close();
  });
});
