// The cursor-sharing page in a real browser: two people see each other, and a cut mends itself.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { after, afterEach, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Client, launchBrowser, PRESENCE, PUBLIC, PUBLIC_2 } from "./support.mjs";

const artefacts = fileURLToPath(new URL("../artefacts/", import.meta.url));
const PRESENT = { skip: !PRESENCE && "the node has no presence (SKYWAVE_PRESENCE=0)" };
const DESK = { viewport: { width: 1100, height: 700 }, colorScheme: "light" };
const PHONE = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark" };
const OTHER_NODE = PUBLIC_2 ?? PUBLIC;

let browser;
before(async () => {
  mkdirSync(artefacts, { recursive: true });
  browser = await launchBrowser();
});
// The pages of a test that failed would be company for the next one.
afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));
after(() => browser?.close());

describe("the demo page", () => {
  it("shows a moved cursor to the other within a second, and not to its owner", async () => {
    const [ada, bob] = [await open(PUBLIC), await open(OTHER_NODE)];
    if (PUBLIC_2) assert.notEqual(await data(ada, "node"), await data(bob, "node"));
    await ada.mouse.move(10, 10);
    await ada.mouse.move(200, 150, { steps: 10 });
    await seesCursorAt(bob, "200px", "150px");
    assert.ok((await bob.locator(".cursor .tag").first().textContent()).length > 2);
    await bob.mouse.move(640, 330, { steps: 10 });
    await seesCursorAt(ada, "640px", "330px");
    assert.equal(await ada.locator(".cursor").count(), 1, "only Bob's cursor, not Ada's own");
    const measured = () => ["trip", "others"].every((id) => /^−?\d+(\.\d)? ms$/.test(document.getElementById(id).textContent));
    await bob.waitForFunction(measured, null, { timeout: 3_000 });
    await bob.screenshot({ path: `${artefacts}demo-desktop.png` });
    await close(ada, bob);
  });

  it("takes a name that is typed, and shows it to others", async () => {
    const [ada, bob] = [await open(PUBLIC), await open(OTHER_NODE)];
    await ada.click("#rename");
    await ada.keyboard.type("Ada <b>"); // replaces the name, which is selected
    const guest = await open(OTHER_NODE); // who comes meanwhile does not interrupt
    await ada.waitForFunction(() => Number(document.body.dataset.members) >= 3, null, { timeout: 5_000 });
    await ada.keyboard.type("L.</b>");
    await ada.keyboard.press("Enter");
    await ada.mouse.move(300, 300, { steps: 3 });
    await bob.waitForFunction(() => [...document.querySelectorAll(".cursor .tag")].some((tag) => tag.textContent === "Ada <b>L.</b>"), null, { timeout: 5_000 });
    await close(ada, bob, guest);
  });

  it("follows a finger", async () => {
    const [phone, desk] = [await open(PUBLIC, PHONE), await open(OTHER_NODE)];
    await phone.touchscreen.tap(120, 240);
    await seesCursorAt(desk, "120px", "240px");
    await desk.mouse.move(300, 200, { steps: 5 });
    await seesCursorAt(phone, "300px", "200px");
    await phone.screenshot({ path: `${artefacts}demo-phone-dark.png` });
    await close(phone, desk);
  });

  it("counts who comes and goes", PRESENT, async () => {
    const ada = await open(PUBLIC);
    await hasMembers(ada, 1);
    const bob = await open(OTHER_NODE);
    await hasMembers(ada, 2);
    await hasMembers(bob, 2);
    await bob.mouse.move(200, 200, { steps: 3 });
    await seesCursorAt(ada, "200px", "200px");
    await close(bob);
    await hasMembers(ada, 1);
    await ada.waitForFunction(() => !document.querySelector(".cursor"), null, { timeout: 5_000 });
    await close(ada);
  });

  it("comes back by itself after a cut and is given what it missed", async () => {
    const cuts = [];
    const ada = await open(PUBLIC, DESK, (page) => cuttable(page, cuts));
    const bob = await Client.connect({ base: OTHER_NODE });
    await bob.subscribe("cursors");
    // Held back until Bob's publication is acknowledged: else the page may be back first, and has missed nothing.
    let comeBack;
    cuts.held = new Promise((resolve) => (comeBack = resolve));
    await cut(ada, cuts, 1012);
    const { published } = await bob.ask({ publish: { channel: "cursors", data: { x: 77, y: 88, name: "Bob", color: "#15803d", t: Date.now(), n: 1 } } });
    assert.ok(published);
    comeBack();
    await isOpen(ada);
    await seesCursorAt(ada, "77px", "88px");
    await ada.waitForFunction(() => /given [1-9]\d* missed/.test(document.querySelector("#feed").textContent), null, { timeout: 5_000 });
    await bob.close();
    await close(ada);
  });

  it("works where no WebSocket passes", async () => {
    const without = (page) =>
      page.addInitScript(() => {
        globalThis.WebSocket = class {
          constructor() {
            setTimeout(() => this.onclose?.({ code: 1006, reason: "" }));
          }
          close() {}
        };
      });
    const [ada, bob] = [await open(PUBLIC, DESK, without), await open(OTHER_NODE)];
    await bob.mouse.move(200, 150, { steps: 5 });
    await seesCursorAt(ada, "200px", "150px");
    await ada.mouse.move(300, 250, { steps: 5 });
    await seesCursorAt(bob, "300px", "250px");
    await close(ada, bob);
  });

  it("stays away when told so, until its visitor asks", async () => {
    const cuts = [];
    const ada = await open(PUBLIC, DESK, (page) => cuttable(page, cuts));
    await cut(ada, cuts, 4503);
    await ada.getByRole("button", { name: "Connect again" }).click();
    await isOpen(ada);
    assert.equal(cuts.length, 2, "it did not come back by itself");
    await close(ada);
  });
});

// Fails the test afterwards if the page complained about anything, its Content-Security-Policy included.
async function open(base, options = DESK, prepare = () => {}) {
  const page = await (await browser.newContext(options)).newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
  await prepare(page);
  await page.goto(`${base}/demo/`);
  await isOpen(page);
  return page;
}

async function close(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  }
}

// The page's WebSocket goes through Playwright, which can close it with any code.
function cuttable(page, cuts) {
  return page.routeWebSocket(/\/ws$/, async (socket) => {
    await cuts.held;
    const node = socket.connectToServer();
    cuts.push(async (code) => {
      await socket.close({ code, reason: "test" });
      await node.close();
    });
  });
}

async function cut(page, cuts, code) {
  await cuts.at(-1)(code);
  await page.waitForSelector('body:not([data-open="1"])', { timeout: 5_000 });
}

function data(page, name) {
  return page.evaluate((name) => document.body.dataset[name], name);
}

function isOpen(page) {
  return page.waitForSelector('body[data-open="1"]', { timeout: 10_000 });
}

function hasMembers(page, count) {
  return page.waitForSelector(`body[data-members="${count}"]`, { timeout: 5_000 });
}

function seesCursorAt(page, left, top) {
  const there = ([left, top]) => [...document.querySelectorAll(".cursor")].some((c) => c.style.left === left && c.style.top === top);
  return page.waitForFunction(there, [left, top], { timeout: 1_000 });
}
