// A node dies under EventSources: the browser's own, and the package's for Node. Both come back by themselves, on the other
// node, with the id of their last event, and nothing is lost or doubled. Then the other node drains, and they come back again.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { EventSource } from "../clients/eventsource.mjs";
import { launchBrowser } from "../clients/support.mjs";
import { Cluster } from "./cluster.mjs";
import { kill, until } from "./processes.mjs";

const [one, other] = ["deep:es", "deep:es two"];
// A browser has six connections for each host.
const STREAMS = 4;
const both = `/sse?${new URLSearchParams([["channel", one], ["channel", other]])}`;
const single = `/sse?${new URLSearchParams([["channel", one]])}`;

// A second for the balancer to see it, and three for all to go.
const DRAIN = `
[drain]
grace = "1s"
window = "3s"
deadline = "15s"
`;

let cluster;
let browser;
before(async () => {
    [cluster, browser] = await Promise.all([Cluster.start("eventsource", { more: DRAIN }), launchBrowser()]);
});
after(async () => {
    await browser?.close();
    await cluster?.stop();
});

// Runs in the page and in Node alike. What a stream has heard: a list of numbers for each channel, and what else happened.
function listen(EventSource, url, onOpen = () => {}) {
    const stream = { heard: { "deep:es": [], "deep:es two": [] }, opened: 0, errors: 0, gaps: 0, goodbyes: [] };
    const source = new EventSource(url);
    source.addEventListener("open", () => {
        stream.opened += 1;
        onOpen();
    });
    source.addEventListener("error", () => (stream.errors += 1));
    source.addEventListener("message", ({ data }) => {
        const { publication } = url.split("channel=").length > 2 ? JSON.parse(data) : { publication: { channel: "deep:es", data: JSON.parse(data) } };
        stream.heard[publication.channel].push(publication.data.n);
    });
    source.addEventListener("gap", () => (stream.gaps += 1));
    source.addEventListener("disconnect", ({ data }) => stream.goodbyes.push(JSON.parse(data).code));
    stream.close = () => source.close();
    return stream;
}

test("EventSources of a killed node go on elsewhere, and those of one that drains", { timeout: 120_000 }, async (t) => {
    const { balancer, nodes } = cluster;
    const page = await (await browser.newContext()).newPage();
    await page.goto(balancer.public);
    await page.evaluate(
        ({ source, urls }) => {
            const listen = eval(`(${source})`);
            window.streams = urls.map((url) => listen(EventSource, url));
        },
        { source: listen.toString(), urls: Array.from({ length: STREAMS }, (_, n) => (n % 2 ? both : single)) },
    );
    const packaged = Array.from({ length: STREAMS }, (_, n) => listen(EventSource, `${balancer.public}${n % 2 ? both : single}`));
    t.after(() => packaged.forEach((stream) => stream.close()));
    const streams = async () => [...(await page.evaluate(() => window.streams.map((stream) => ({ ...stream, close: null })))), ...packaged];
    await until(() => "all are open", async () => (await streams()).every(({ opened }) => opened > 0));

    // Published in order through whatever node is there, again under its key if one did not answer.
    let sent = 0;
    let isOver = false;
    const publishing = (async () => {
        while (!isOver) {
            sent += 1;
            for (const channel of [one, other]) {
                const command = { channel, data: { n: sent }, key: `${channel} ${sent}` };
                let published;
                for (let tries = 0; !published; tries += 1) {
                    published = await nodes[tries % 2].call("publish", command).catch(() => null);
                    if (!published) await sleep(20);
                }
            }
            await sleep(5);
        }
    })();
    t.after(() => (isOver = true));
    const haveHeard = async (count) => (await streams()).every(({ heard }) => heard[one].at(-1) >= count);
    await until(() => "all hear something", () => haveHeard(50));

    const [victim, heir] = nodes;
    await kill(victim.child);
    const died = Date.now();
    const upTo = sent;
    await until(() => "all hear what was published behind the death", () => haveHeard(upTo + 20), 30_000);
    t.diagnostic(`everything was there ${Date.now() - died} ms after the node died`);
    const orphans = (await streams()).filter(({ opened }) => opened > 1).length;
    assert.ok(orphans > 0 && orphans < 2 * STREAMS, `both nodes had streams: ${orphans} of ${2 * STREAMS} came back`);
    assert.ok((await streams()).every(({ goodbyes }) => goodbyes.length === 0), "nobody said goodbye");

    // The node comes back, and the other one drains: each is told, and comes back on the first.
    await cluster.launch(victim);
    await cluster.untilBalanced(victim);
    const ended = cluster.terminate(heir);
    await until(() => "all have been told to leave", async () => (await streams()).every(({ goodbyes }) => goodbyes.includes(4001)), 30_000);
    const then = sent;
    await until(() => "all hear what was published behind the drain", () => haveHeard(then + 20), 30_000);
    assert.equal(await ended, 0, "the node had nobody left to wait for");

    isOver = true;
    await publishing;
    await until(() => "all hear the last", () => haveHeard(sent), 30_000).catch((error) => t.diagnostic(error.message)); // said below
    const expected = Array.from({ length: sent }, (_, n) => n + 1);
    for (const [place, { heard, gaps, opened }] of (await streams()).entries()) {
        const who = `${place < STREAMS ? "the browser's" : "the package's"} stream ${place}, opened ${opened} times`;
        assert.equal(gaps, 0, who);
        for (const channel of place % 2 ? [one, other] : [one]) {
            // Whoever came with the first publications has missed those before: from its first on nothing is missing.
            assert.deepEqual(heard[channel], expected.slice(heard[channel][0] - 1), `${who}: ${channel}`);
        }
    }
});
