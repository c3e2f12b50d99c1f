// The chat page in real browsers: what one writes the other reads, and a broken connection loses and doubles nothing.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { channel, Client, INFO, launchBrowser, post, PRESENCE, PUBLIC, PUBLIC_2 } from "./support.mjs";

const artefacts = fileURLToPath(new URL("../artefacts/", import.meta.url));
const PRESENT = { skip: !PRESENCE && "the node has no presence (SKYWAVE_PRESENCE=0)" };
const DESK = { viewport: { width: 1200, height: 760 }, colorScheme: "light" };
const PHONE = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark" };
const OTHER_NODE = PUBLIC_2 ?? PUBLIC;
const HISTORY = 100; // publications that the node keeps, or up to a quarter more
const SOON = { timeout: 5_000 };
const AFTER_A_BREAK = { timeout: 15_000 };

let browser;
let room;
before(async () => {
  mkdirSync(artefacts, { recursive: true });
  browser = await launchBrowser();
});
// Each test has its own room.
beforeEach(() => (room = channel()));
// The pages of a test that failed would be company for the next one.
afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));
after(() => browser?.close());

describe("the chat page", () => {
  it("shows a message to both, at one place, once", async () => {
    const [ada, bob] = await openTwo();
    if (PUBLIC_2) assert.notEqual(await data(ada, "node"), await data(bob, "node"));
    await write(ada, "Hello Bob");
    await write(bob, "Hello Ada");
    await Promise.all([ada, bob].map((page) => reads(page, ["Hello Bob", "Hello Ada"])));
    await ada.waitForSelector('.own[data-state="sent"][data-offset="1"]', SOON);
    assert.deepEqual(await offsets(ada), await offsets(bob));
    await close(ada, bob);
  });

  it("shows who comes later what was said before", async () => {
    const ada = await open();
    await write(ada, "first");
    await write(ada, "second");
    await ada.waitForFunction(() => document.querySelectorAll('[data-state="sent"]').length === 2, null, SOON);
    const late = await open(OTHER_NODE, PHONE);
    await reads(late, ["first", "second"]);
    await close(ada, late);
  });

  it("shows text as text, whoever wrote it", async () => {
    const [ada, bob] = await openTwo();
    const text = '<img src="x" onerror="document.body.dataset.owned = 1"><b>bold</b>';
    await write(ada, text);
    const api = await publisher();
    await api.publish({ text: "<i>text</i>", name: "<u>name</u>", color: "red;background:url(//x)", at: "never" });
    await api.publish("<s>only a string</s>");
    await api.publish({ other: ["<p>"] });
    const all = [text, "<i>text</i>", "<s>only a string</s>", '{"other":["<p>"]}'];
    // A back end has no client id, and a name need not be a text. A cluster wants a key for its API.
    for (const name of INFO ? [7, true, {}, [1]] : []) {
      const { status } = await post("publish", { channel: `chat:${room}`, data: { text: `name ${name}`, name } });
      assert.equal(status, 200);
      all.push(`name ${name}`);
    }
    await reads(bob, all);
    const late = await open();
    await reads(late, all);
    await close(late);
    assert.equal(await bob.locator("#log img, #log i, #log u, #log s, .bubble b").count(), 0);
    assert.equal(await data(bob, "owned"), undefined);
    await api.close();
    await close(ada, bob);
  });

  it("lists who is there", PRESENT, async () => {
    const ada = await open();
    await hasMembers(ada, 1);
    const bob = await open(OTHER_NODE);
    await Promise.all([hasMembers(ada, 2), hasMembers(bob, 2)]);
    const name = await bob.locator("#my-name").textContent();
    if (INFO) await ada.waitForFunction((name) => [...document.querySelectorAll("#people li:not(.me)")].some((row) => row.textContent === name), name, SOON);
    await close(bob);
    await hasMembers(ada, 1);
    await close(ada);
  });

  it("takes a list of members that it did not ask for", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    node.push({ subscribed: { channel: `chat:${room}`, members: [{ client: "c1", info: { name: "Grace" } }, { client: "c2" }], total: 7 } });
    await ada.waitForFunction(() => [...document.querySelectorAll("#people li")].some((row) => row.textContent === "Grace"), null, SOON);
    await hasMembers(ada, 7);
    await close(ada);
  });

  it("is given what it missed while it was cut off, and marks it", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    const bob = await publisher();
    await bob.publish({ text: "before" });
    await reads(ada, ["before"]);
    const comeBack = node.hold();
    await ada.getByRole("button", { name: "Cut the connection" }).click();
    await ada.waitForFunction(() => /back in \d s/.test(document.getElementById("status-text").textContent), null, SOON);
    for (const text of ["one", "two", "three"]) await bob.publish({ text });
    assert.deepEqual(await texts(ada), ["before"], "nothing comes while it is cut off");
    comeBack();
    await recovers(ada, "After the cut: recovered 3 messages (offset 2 to 4), nothing missed.");
    await bob.publish({ text: "after" });
    await reads(ada, ["before", "one", "two", "three", "after"]);
    assert.deepEqual(await recovered(ada), ["one", "two", "three"]);
    await ada.screenshot({ path: `${artefacts}chat-desktop.png` });
    await bob.close();
    await close(ada);
  });

  it("works through what waited while it was frozen, and marks it", async () => {
    const ada = await open(PUBLIC, PHONE);
    const bob = await publisher();
    await bob.publish({ text: "before" });
    await reads(ada, ["before"]);
    await ada.getByRole("button", { name: "Freeze" }).click();
    await ada.waitForSelector('body[data-frozen="1"]', SOON);
    for (const text of ["one", "two"]) await bob.publish({ text });
    await ada.waitForFunction(() => /, [1-9]\d* wait$/.test(document.getElementById("status-text").textContent), null, SOON);
    assert.deepEqual(await texts(ada), ["before"], "nothing is shown while it is frozen");
    await recovers(ada, "After the freeze: recovered 2 messages (offset 2 to 3), nothing missed.");
    await reads(ada, ["before", "one", "two"]);
    assert.deepEqual(await recovered(ada), ["one", "two"]);
    await ada.screenshot({ path: `${artefacts}chat-phone-dark.png` });
    await bob.close();
    await close(ada);
  });

  it("says when the history does not reach back, and shows what there is", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    const bob = await publisher();
    await bob.publish({ text: "before" });
    await reads(ada, ["before"]);
    const comeBack = node.hold();
    await ada.getByRole("button", { name: "Cut the connection" }).click();
    for (let i = 1; i <= 2 * HISTORY; i++) await bob.publish({ text: `m${i}` });
    const { history } = await bob.ask({ history: { channel: `chat:${room}`, limit: 2 * HISTORY } });
    comeBack();
    const [{ offset }] = history.publications;
    const told = `${offset - 2} messages are missing (offset 2 to ${offset - 1})`;
    await ada.locator(".event.bad").filter({ hasText: told }).waitFor(AFTER_A_BREAK);
    await reads(ada, ["before", ...history.publications.map(({ data }) => data.text)]);
    assert.deepEqual(await recovered(ada), []);
    await bob.close();
    await close(ada);
  });

  it("shows a place once, should it come twice", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    await write(ada, "mine");
    await ada.waitForSelector('#log [data-state="sent"]', SOON);
    const bob = await publisher();
    const { position } = await bob.publish({ text: "once" });
    await reads(ada, ["mine", "once"]);
    for (const offset of [1, position.offset]) {
      node.push({ publication: { channel: `chat:${room}`, epoch: position.epoch, offset, data: { text: "twice" } } });
    }
    await bob.publish({ text: "end" });
    await reads(ada, ["mine", "once", "end"]);
    await bob.close();
    await close(ada);
  });

  it("loads a history of several pages whole", async () => {
    const bob = await publisher();
    const long = Array.from({ length: 40 }, (_, i) => `${i} ${"x".repeat(3_000)}`); // a page is 64 KiB
    for (const text of long) await bob.publish({ text });
    const ada = await open();
    await reads(ada, long);
    await bob.close();
    await close(ada);
  });

  it("sends what was written while it was cut off, exactly once", async () => {
    const node = relay();
    const [ada, bob] = await openTwo(node.between);
    const comeBack = node.hold();
    await ada.getByRole("button", { name: "Cut the connection" }).click();
    await write(ada, "from afar");
    await write(ada, "and another");
    await ada.waitForSelector('#outbox [data-state="waiting"] >> nth=1', SOON);
    await write(bob, "are you there?");
    await reads(bob, ["are you there?"]);
    comeBack();
    const all = ["are you there?", "from afar", "and another"];
    await reads(bob, all, AFTER_A_BREAK);
    await reads(ada, all);
    assert.deepEqual(await recovered(ada), ["are you there?"]);
    assert.equal(await ada.locator("#outbox li").count(), 0);
    await close(ada, bob);
  });

  it("does not double a message whose acknowledgement was lost", async () => {
    const node = relay();
    const [ada, bob] = await openTwo(node.between);
    node.deaf = true; // nothing comes from the node any more, the message still goes there
    await write(ada, "did this arrive?");
    await reads(bob, ["did this arrive?"]);
    await ada.waitForSelector('#outbox [data-state="sending"]', SOON);
    node.deaf = false;
    await node.cut();
    await ada.waitForSelector('#log [data-state="sent"]', AFTER_A_BREAK);
    await write(bob, "yes");
    await reads(ada, ["did this arrive?", "yes"]);
    await reads(bob, ["did this arrive?", "yes"]);
    await close(ada, bob);
  });

  it("sends again with the same key until it is acknowledged", async () => {
    const node = relay();
    const [ada, bob] = await openTwo(node.between);
    const keys = [];
    const codes = ["unavailable", "unknown_outcome"];
    node.answer = ({ id, publish }) => {
      if (publish) keys.push(publish.key);
      const code = publish && codes.shift();
      return code && { id, error: { code, message: "test", retry: true, after_ms: 0 } };
    };
    await write(ada, "insisting");
    await reads(bob, ["insisting"]);
    await ada.waitForSelector('#log [data-state="sent"]', SOON);
    await reads(ada, ["insisting"]);
    assert.equal(keys.length, 3);
    assert.equal(new Set(keys).size, 1, "one key");
    await close(ada, bob);
  });

  it("keeps a message that was refused, until its author decides", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    node.answer = ({ id, publish }) => publish && { id, error: { code: "permission_denied", message: "not today", retry: false, after_ms: 0 } };
    await write(ada, "one");
    await write(ada, "two");
    await ada.waitForFunction(() => document.querySelectorAll('#outbox [data-state="failed"]').length === 2, null, SOON);
    assert.match(await ada.locator("#outbox .state").first().textContent(), /not sent: not today/);
    node.answer = undefined;
    await ada.getByRole("button", { name: "Discard" }).first().click();
    await ada.getByRole("button", { name: "Send again" }).click();
    await reads(ada, ["two"]);
    await ada.waitForSelector('#log [data-state="sent"]', SOON);
    await close(ada);
  });

  it("counts what it missed over a failover that lost nothing", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    const bob = await publisher();
    await bob.publish({ text: "before" });
    await reads(ada, ["before"]);
    const channel = `chat:${room}`;
    const at = (offset) => ({ epoch: "another0", offset });
    const said = (offset) => ({ channel, ...at(offset), data: { text: `no. ${offset}` } });
    node.answer = ({ id, connect, history }) => {
      const subscribed = [{ channel, position: at(3), recovered: true, publications: [said(2), said(3)] }];
      if (connect) return { id, connected: { client: "c", session: "s", node: "n", ping_interval_ms: 25000, subscribed } };
      return history && { id, history: { channel, position: at(3), publications: [], more: false } };
    };
    await node.cut();
    await recovers(ada, "After the cut: recovered 2 messages (offset 2 to 3), nothing missed.");
    assert.deepEqual(await recovered(ada), ["no. 2", "no. 3"]);
    await bob.close();
    await close(ada);
  });

  it("does not send again under a key that another client's was", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    const channel = `chat:${room}`;
    node.answer = ({ id, publish }) => publish && { id, error: { code: "unknown_outcome", message: "test", retry: true, after_ms: 60_000 } };
    await write(ada, "perhaps");
    await ada.waitForSelector('#outbox [data-state="waiting"]', SOON);
    let published = 0;
    node.answer = ({ id, connect, history, publish }) => {
      const subscribed = [{ channel, position: { epoch: "another0", offset: 0 }, recovered: false }];
      if (connect) return { id, connected: { client: "somebody else", session: "s", node: "n", ping_interval_ms: 25000, subscribed } };
      if (publish) published++;
      return history && { id, history: { channel, position: { epoch: "another0", offset: 0 }, publications: [], more: false } };
    };
    await node.cut();
    await ada.locator('#outbox [data-state="failed"]').filter({ hasText: "it may have arrived" }).waitFor(AFTER_A_BREAK);
    assert.equal(published, 0);
    await close(ada);
  });

  it("tells what the node tells: a gap, and a backplane that went and came", async () => {
    const node = relay();
    const ada = await open(PUBLIC, DESK, node.between);
    const bob = await publisher();
    await bob.publish({ text: "before" });
    await reads(ada, ["before"]);
    node.push({ backplane: { state: "degraded" } });
    await ada.getByRole("alert").filter({ hasText: "lost sight of the other nodes" }).waitFor(SOON);
    node.push({ backplane: { state: "ok" } });
    await ada.waitForSelector("#banner", { state: "hidden", ...SOON });
    node.deaf = true;
    await bob.publish({ text: "skipped" });
    const { position } = await bob.publish({ text: "skipped too" });
    node.deaf = false;
    node.push({ gap: { channel: `chat:${room}`, reason: "slow_consumer", missed: 2, position } });
    await ada.waitForFunction(() => document.querySelector(".event.bad")?.textContent.includes("Loaded again: nothing is missing"), null, SOON);
    await reads(ada, ["before", "skipped", "skipped too"]);
    await bob.close();
    await close(ada);
  });

  it("is found from the start page, from the cursors, and without its last slash", async () => {
    const page = await (await browser.newContext(DESK)).newPage();
    await page.goto(PUBLIC);
    await page.getByRole("link", { name: "Chat" }).click();
    await page.getByRole("link", { name: "Cursors" }).click();
    await page.getByRole("link", { name: "Chat" }).click();
    await isOpen(page);
    await page.goto(`${PUBLIC}/demo/chat?room=a%20b`);
    await isOpen(page);
    assert.equal(await page.locator("h1").textContent(), "Chat a b");
  });
});

// Fails the test afterwards if the page complained about anything, its Content-Security-Policy included.
async function open(base = PUBLIC, options = DESK, prepare = () => {}) {
  const page = await (await browser.newContext(options)).newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
  await prepare(page);
  await page.goto(`${base}/demo/chat/?room=${room}`);
  await isOpen(page);
  return page;
}

async function openTwo(between) {
  return [await open(PUBLIC, DESK, between), await open(OTHER_NODE)];
}

async function close(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  }
}

// A client that is no page.
async function publisher() {
  const client = await Client.connect({ base: OTHER_NODE });
  await client.subscribe(`chat:${room}`);
  client.publish = async (data) => {
    const { published, error } = await client.ask({ publish: { channel: `chat:${room}`, data } });
    assert.ok(published, JSON.stringify(error));
    return published;
  };
  return client;
}

// Stands between a page and its node: can hold new connections back, stay silent, cut, and answer in the node's place.
function relay() {
  const relay = { deaf: false, held: undefined, answer: undefined, sockets: [] };
  relay.between = (page) =>
    page.routeWebSocket(/\/ws$/, async (socket) => {
      await relay.held;
      const node = socket.connectToServer();
      relay.sockets.push({ socket, node });
      node.onMessage((frame) => relay.deaf || socket.send(frame));
      socket.onMessage((frame) => {
        for (const line of frame.split("\n")) {
          const answer = relay.answer?.(JSON.parse(line));
          if (answer) socket.send(JSON.stringify(answer));
          else node.send(line);
        }
      });
    });
  relay.hold = () => {
    let release;
    relay.held = new Promise((resolve) => (release = resolve));
    return release;
  };
  relay.push = (said) => relay.sockets.at(-1).socket.send(JSON.stringify(said));
  relay.cut = async () => {
    const { socket, node } = relay.sockets.at(-1);
    await socket.close({ code: 1012, reason: "test" });
    await node.close();
  };
  return relay;
}

async function write(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

// The log holds these messages, in this order, and no other.
async function reads(page, expected, options = SOON) {
  const same = (expected) => JSON.stringify([...document.querySelectorAll("#log .text")].map((text) => text.textContent)) === expected;
  await page.waitForFunction(same, JSON.stringify(expected), options).catch(async (error) => {
    throw new Error(`${error.message}; expected ${expected}, shown ${await texts(page)}`);
  });
}

function texts(page) {
  return page.locator("#log .text").allTextContents();
}

function recovered(page) {
  return page.locator("#log .recovered .text").allTextContents();
}

function recovers(page, text) {
  return page.locator(".event.good").filter({ hasText: text }).waitFor(AFTER_A_BREAK);
}

function offsets(page) {
  return page.locator("#log .message").evaluateAll((messages) => messages.map(({ dataset }) => dataset.offset));
}

function data(page, name) {
  return page.evaluate((name) => document.body.dataset[name], name);
}

function isOpen(page) {
  return page.waitForSelector('body[data-open="1"] #log[aria-busy="false"]', { timeout: 10_000, state: "attached" });
}

function hasMembers(page, count) {
  return page.waitForSelector(`body[data-members="${count}"]`, SOON);
}
