// sockjs-client, as published, by every way it has: our protocol at /sockjs, from Node and from pages in Chromium.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { channel, launchBrowser, PUBLIC, within } from "./support.mjs";

const SockJS = createRequire(import.meta.url)("sockjs-client");

const URL_OF_SERVICE = `${PUBLIC}/sockjs`;
const IN_NODE = ["websocket", "xhr-streaming", "xhr-polling", "eventsource"];
const IN_FRAMES = ["iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling"];
// Some are larger than what one response holds at once, or what a form of a page of that time could carry as it is.
const MESSAGES = ['é "quoted" \u2028 \\ </script> 😀', "x".repeat(5_000), "short"];

// Runs in Node and, as text, in a page: subscribes, publishes one message after the other, and hears each before the next.
function converse(SockJS, url, transport, channel, messages) {
    return new Promise((resolve, reject) => {
        const sock = new SockJS(url, null, { transports: [transport], timeout: 5_000 });
        const heard = [];
        let used;
        const late = setTimeout(() => reject(new Error(`${transport}: ${heard.length} of ${messages.length} after 10 s`)), 10_000);
        const say = (command) => sock.send(JSON.stringify(command));
        const publish = () => say({ publish: { channel, data: messages[heard.length] } });
        sock.onopen = () => {
            used = sock.transport;
            say({ id: 1, connect: { subscribe: [{ channel }] } });
        };
        sock.onmessage = ({ data }) => {
            const said = JSON.parse(data);
            if (said.error) reject(new Error(`${transport}: ${data}`));
            if (said.connected) publish();
            if (!said.publication) return;
            heard.push(said.publication.data);
            if (heard.length < messages.length) publish();
            else sock.close(1000, "done");
        };
        sock.onclose = ({ code, reason, wasClean }) => {
            clearTimeout(late);
            resolve({ used, heard, code, reason, wasClean });
        };
    });
}

function check(transport, { used, heard, code, reason }) {
    assert.deepEqual(heard, MESSAGES, `${transport}: closed with ${code} ${reason}`);
    assert.equal(used, transport);
    assert.equal(code, 1000);
}

describe("sockjs-client in Node", () => {
    for (const transport of IN_NODE) {
        it(`by ${transport}`, async () => {
            check(transport, await within(converse(SockJS, URL_OF_SERVICE, transport, channel(), MESSAGES), transport, 12_000));
        });
    }

    it("finds no way where a page of this origin may not", async () => {
        const answer = await fetch(`${URL_OF_SERVICE}/info`, { headers: { origin: "http://evil.example" } });
        assert.equal(answer.status, 403);
    });
});

describe("sockjs-client in Chromium", () => {
    let browser;
    before(async () => (browser = await launchBrowser()));
    after(() => browser?.close());

    // The page at this address, and in it the client as the node serves it.
    async function page(address) {
        const page = await browser.newPage();
        await page.goto(address);
        await page.addScriptTag({ url: `${URL_OF_SERVICE}/sockjs-1.6.1.min.js` });
        return page;
    }

    async function by(page, transport) {
        const code = `(${converse})(SockJS, ...${JSON.stringify([URL_OF_SERVICE, transport, channel(), MESSAGES])})`;
        check(transport, await within(page.evaluate(code), transport, 15_000));
    }

    async function eight(address) {
        const other = await page(address);
        for (const transport of [...IN_NODE, ...IN_FRAMES, "jsonp-polling"]) await by(other, transport);
        await other.close();
    }

    it("from a page of the same origin, by nine ways", async () => {
        const own = await page(`${URL_OF_SERVICE}/`);
        for (const transport of [...IN_NODE, ...IN_FRAMES, "htmlfile", "jsonp-polling"]) await by(own, transport);
        await own.close();
    });

    it("from a page of another origin, by eight", async (t) => {
        // Where only named origins may connect, the test is told one of them.
        if (process.env.SKYWAVE_OTHER_ORIGIN) return eight(process.env.SKYWAVE_OTHER_ORIGIN);
        // A real one: what a test makes up is no place of this machine, and may not speak to those that are.
        const server = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html><body>"));
        await once(server.listen(0, "localhost"), "listening");
        t.after(() => server.close());
        await eight(`http://localhost:${server.address().port}/`);
    });
});
