// Pictures of the dashboards, docs/images/dashboard-*.png: a cluster under load, a Prometheus that scrapes it, and Grafana's own
// components in Chromium. There is no Grafana server in it: what one does with a dashboard beyond drawing it is not seen.
import { mkdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { Client } from "../cluster/client.mjs";
import { Cluster } from "../cluster/cluster.mjs";
import { freePorts, kill, root, skywave, start, until } from "../cluster/processes.mjs";
import { dashboards } from "../monitoring/dashboards.mjs";
import { Prometheus } from "../monitoring/prometheus.mjs";

const here = join(root, "tests/dashboards");
const images = join(root, "docs/images");
const seconds = Number(process.env.PICTURE_SECONDS ?? 300);
const WebSocket = createRequire(new URL("../clients/package.json", import.meta.url))("ws");
const loadtest = resolve(skywave, "../loadtest");

const page = await build({
    stdin: { contents: 'import "./page.jsx";', resolveDir: here },
    bundle: true,
    write: false,
    outdir: "out",
    minify: true,
    jsx: "transform",
    define: { "process.env.NODE_ENV": '"production"', global: "window" },
    loader: { ".svg": "dataurl", ".woff": "dataurl", ".woff2": "dataurl", ".ttf": "dataurl" },
    logLevel: "error",
});
const text = (ending) => page.outputFiles.find(({ path }) => path.endsWith(ending)).text;

const [hookPort] = await freePorts(1);
const hook = createServer((_, response) => setTimeout(() => response.end("{}"), 5 + 20 * Math.random())).listen(hookPort, "127.0.0.1");
const more = `
[drain]
grace = "1s"
window = "20s"
[timeouts]
ping_interval = "2s"
[auth.tokens]
keys = [{ alg = "HS256", secret = "a key that nobody signs with, of thirty-two bytes" }]
[namespaces.fast]
subscribe = "anyone"
[webhooks.connect]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
[webhooks.events]
url = "http://127.0.0.1:${hookPort}/"
secret = "thirty-two bytes for the back end"
`;
const cluster = await Cluster.start("pictures", { nodes: 3, more });
await cluster.redis("CONFIG", "SET", "maxmemory", "256mb");
const prometheus = await Prometheus.start(cluster);
const begun = Date.now();
const url = cluster.balancer.public.replace(/^http/, "ws");
start("idle", cluster.directory, loadtest, ["idle", "--url", `${url}/ws`, "--clients", "600", "--duration", `${seconds + 60}s`]);
const clients = await Promise.all(Array.from({ length: 60 }, (_, n) => new Client(cluster.balancer.public, `deep:room-${n % 6}`).connect()));

let isOver = false;
const swing = () => 1 + Math.sin((Date.now() - begun) / 20_000);
const traffic = (async () => {
    for (let n = 0; !isOver; n++) {
        const [node] = cluster.nodes;
        await node.call("publish", { channel: `deep:room-${n % 6}`, data: "x".repeat(200) }).catch(() => {});
        if (n % 4 === 0) clients[n % clients.length].say({ id: n, publish: { channel: `deep:room-${(n % clients.length) % 6}`, data: n } });
        await sleep(10 + 30 / (0.2 + swing()));
    }
})();
const guests = (async () => {
    for (let n = 0; !isOver; n++) {
        const path = n % 9 === 0 ? "/raw/deep%3Aroom-1?token=e30.e30.e30" : "/raw/deep%3Aroom-1";
        const guest = new WebSocket(`${url}${path}`);
        guest.on("open", () => setTimeout(() => guest.close(1000), 3_000));
        guest.on("error", () => {});
        if (n % 5 === 0) clients[(n * 7) % clients.length].interrupt();
        await sleep(200 / (0.3 + swing()));
    }
})();
// What a day brings, within minutes: Redis cuts the nodes off, one node is replaced.
const events = (async () => {
    await sleep(seconds * 300);
    await cluster.redis("CLIENT", "KILL", "TYPE", "pubsub");
    await sleep(seconds * 150);
    const replaced = cluster.nodes[2];
    await cluster.terminate(replaced);
    await cluster.launch(replaced);
})();
const progress = setInterval(() => console.log(`${Math.round((Date.now() - begun) / 1000)} of ${seconds} s`), 30_000);
await Promise.all([sleep(seconds * 1000), events]);
clearInterval(progress);

mkdirSync(images, { recursive: true });
const view = { prometheus: "/prometheus", from: Math.ceil(begun / 1000) + 20, to: Math.floor(Date.now() / 1000) };
const server = createServer(async (request, response) => {
    const { pathname, search } = new URL(request.url, "http://localhost");
    if (pathname.startsWith("/prometheus")) {
        const answer = await fetch(`${prometheus.url}${pathname.slice("/prometheus".length)}${search}`);
        response.end(await answer.text());
    } else if (pathname === "/page.js" || pathname === "/page.css") {
        response.setHeader("content-type", pathname === "/page.js" ? "text/javascript" : "text/css");
        response.end(text(pathname.slice("/page".length)));
    } else if (pathname.startsWith("/dashboard/")) {
        const dashboard = dashboards.find(({ name }) => `/dashboard/${name}` === pathname);
        response.setHeader("content-type", "text/html");
        response.end(`<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/page.css"><body><div id="root"></div>
<script>window.view = ${JSON.stringify({ ...view, dashboard }).replaceAll("<", "\\u003c")};</script><script src="/page.js"></script>`);
    } else {
        response.statusCode = 404;
        response.end();
    }
}).listen(0, "127.0.0.1");
await until(() => "the page is served", () => server.listening);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
let failed = false;
for (const { name, title } of dashboards) {
    const tab = await browser.newPage({ viewport: { width: 1376, height: 900 } });
    tab.on("pageerror", (error) => ((failed = true), console.error(`${name}: ${error.stack}`)));
    await tab.goto(`http://127.0.0.1:${server.address().port}/dashboard/${name}`);
    await tab.waitForFunction(() => {
        const panels = [...document.querySelectorAll("[data-drawn]")];
        return panels.length > 0 && panels.every((panel) => panel.dataset.drawn === "true");
    }, undefined, { timeout: 60_000 });
    await sleep(2_000); // uPlot draws in frames of its own
    const complaints = await tab.evaluate(() => window.problems);
    const empty = await tab.evaluate(() => [...document.querySelectorAll("[data-drawn]")].filter((panel) => panel.textContent.includes("No data")).length);
    if (complaints.length > 0) failed = true;
    const file = join(images, `dashboard-${name.replace(".json", ".png")}`);
    await tab.screenshot({ path: file, fullPage: true });
    console.log(`${title}: ${file.slice(root.length)}, ${Math.round(statSync(file).size / 1024)} KiB, ${empty} without data`, ...complaints);
    await tab.close();
}
await browser.close();
server.close();
isOver = true;
await Promise.all([traffic, guests]);
clients.forEach((client) => client.close());
hook.close();
await cluster.stop();
process.exit(failed ? 1 : 0);
