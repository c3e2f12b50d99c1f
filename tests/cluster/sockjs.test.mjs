// SockJS over two nodes behind a balancer that knows nothing of sessions: each request goes to the next node.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { Cluster } from "./cluster.mjs";
import { kill, root, run, until } from "./processes.mjs";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const SockJS = require("sockjs-client");

const services = `
[[sockjs]]
prefix = "/sockjs"
[[sockjs]]
prefix = "/sockjs-cursors"
mode = "raw"
channel = "cursors:demo"
[namespaces.cursors]
subscribe = "anyone"
publish = "subscribers"
`;

// As in tutorials of SockJS: a dot for each other visitor, wherever its pointer is. What is added is `data-`, for tests.
const cursorPage = (service, transport) => `<!doctype html>
<style>.cursor { position: absolute; width: 10px; height: 10px; border-radius: 50%; background: crimson; }</style>
<body>
<script src="/sockjs/sockjs-1.6.1.min.js"></script>
<script>
    const me = Math.random().toString(36).slice(2), dots = {};
    const sock = new SockJS("${service}", null, { transports: ["${transport}"] });
    sock.onopen = () => document.body.dataset.open = sock.transport;
    sock.onclose = () => delete document.body.dataset.open;
    sock.onmessage = (e) => {
        const { id, x, y } = JSON.parse(e.data);
        if (id === me) return;
        const dot = dots[id] ??= document.body.appendChild(Object.assign(document.createElement("div"), { className: "cursor" }));
        dot.style.left = x + "px";
        dot.style.top = y + "px";
    };
    document.onmousemove = (e) => sock.readyState === SockJS.OPEN && sock.send(JSON.stringify({ id: me, x: e.clientX, y: e.clientY }));
</script>`;

test("SockJS without sticky sessions", { timeout: 240_000 }, async (t) => {
    const cluster = await Cluster.start("sockjs", { more: services });
    t.after(() => cluster.stop());

    await t.test("every way of the client, through the balancer", async () => {
        const env = { SKYWAVE_PUBLIC: cluster.balancer.public, SKYWAVE_INTERNAL: cluster.nodes[0].internal };
        env.SKYWAVE_OTHER_ORIGIN = `${cluster.nodes[1].public}/sockjs`; // a page of another origin that may connect
        env.NODE_TEST_CONTEXT = undefined; // else the inner runner reports to the outer one, in their private format
        const code = await run(process.execPath, ["--test", join(root, "tests/clients/sockjs.test.mjs")], env);
        assert.equal(code, 0, "tests/clients/sockjs.test.mjs passed");
    });

    await t.test("the cursors of a tutorial's page, each on another node", async (t) => {
        const { chromium } = require("playwright-core");
        const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
        t.after(() => browser.close());
        const open = async (node, transport) => {
            const page = await (await browser.newContext({ viewport: { width: 640, height: 400 } })).newPage();
            await page.goto(`${node.public}/sockjs-cursors`); // any page of the node's
            await page.setContent(cursorPage("/sockjs-cursors", transport));
            await page.waitForSelector(`body[data-open="${transport}"]`, { state: "attached" });
            return page;
        };
        for (const [one, other] of [["websocket", "xhr-streaming"], ["xhr-polling", "websocket"]]) {
            const [ada, bob] = [await open(cluster.nodes[0], one), await open(cluster.nodes[1], other)];
            await ada.mouse.move(10, 10);
            await ada.mouse.move(200, 150, { steps: 10 });
            await bob.waitForFunction(
                () => [...document.querySelectorAll(".cursor")].some((dot) => dot.style.left === "200px" && dot.style.top === "150px"),
                null,
                { timeout: 5_000 },
            );
            assert.equal(await ada.locator(".cursor").count(), 0, "nobody sees a cursor of one's own");
            await Promise.all([ada.close(), bob.close()]);
        }
    });

    await t.test("the owning node is killed: the session ends, and everything is recovered", async () => {
        const channel = "deep:sockjs-death";
        const sent = [];
        const publish = async (node) => {
            const data = `message ${sent.length}`;
            await node.call("publish", { channel, data });
            sent.push(data);
        };
        const page = new Page(`${cluster.balancer.public}/sockjs`, channel);
        await until(() => "the page is there", () => page.node);
        const first = page.node;
        const victim = cluster.nodes.find(({ name }) => name === first);
        const other = cluster.nodes.find(({ name }) => name !== first);
        for (let i = 0; i < 20; i++) await publish(i % 2 ? victim : other);
        await until(() => "what was published before", () => page.heard.length >= 20);
        await kill(victim.child);
        for (let i = 0; i < 20; i++) await publish(other);
        await until(() => `all of it: ${page.heard.length} of ${sent.length}, closed ${page.closed}`, () => page.heard.length >= sent.length, 60_000);
        assert.deepEqual(page.heard, sent, "nothing is lost or doubled");
        assert.equal(page.node, other.name);
        assert.equal(page.closed.length, 1, String(page.closed));
        page.close();
    });
});

// What a page does that wants everything: it comes back, and says how far it has come.
class Page {
    heard = [];
    closed = [];

    constructor(url, channel) {
        Object.assign(this, { url, channel });
        this.#open();
    }

    #open() {
        const sock = (this.sock = new SockJS(this.url, null, { transports: ["xhr-polling"], timeout: 5_000 }));
        sock.onopen = () => {
            const subscription = { channel: this.channel, since: this.position };
            sock.send(JSON.stringify({ id: 1, connect: { subscribe: [subscription] } }));
        };
        sock.onmessage = ({ data }) => {
            const { connected, publication, error } = JSON.parse(data);
            if (error) throw new Error(data);
            if (connected) {
                const [{ position, publications = [] }] = connected.subscribed;
                publications.forEach((one) => this.#hear(one));
                this.position ??= position;
                this.node = connected.node;
            }
            if (publication) this.#hear(publication);
        };
        sock.onclose = ({ code, reason }) => {
            if (this.ended) return;
            if (this.node) this.closed.push(`${code} ${reason}`);
            this.node = undefined;
            setTimeout(() => this.#open(), 200);
        };
    }

    #hear({ data, epoch, offset }) {
        this.heard.push(data);
        this.position = { epoch: epoch ?? this.position.epoch, offset };
    }

    close() {
        this.ended = true;
        this.sock.close();
    }
}
