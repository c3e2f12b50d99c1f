// What a fan-out costs on one node, and on two that share the subscribers over Redis: `make bench-backplane` runs it.
// Interleaved rounds, medians, as a ratio: CPU of the nodes for each delivery.
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts, root, run, skywave, start, untilAnswers, kill } from "../tests/cluster/processes.mjs";

const ROUNDS = 5;
const CLIENTS = "1000";

const directory = mkdtempSync(join(tmpdir(), "skywave-bench-"));
const [redisPort, ...ports] = await freePorts(5);
const redis = start("redis", directory, "redis-server", ["--port", redisPort, "--bind", "127.0.0.1", "--save", ""].map(String));
const nodes = [];
for (const [place, name] of ["one", "two"].entries()) {
    const [publicPort, internalPort] = ports.slice(2 * place, 2 * place + 2);
    const node = start(name, directory, skywave, [
        "serve", "--dev", "--name", name, "--backplane", `redis://127.0.0.1:${redisPort}`,
        "--listen", `127.0.0.1:${publicPort}`, "--internal-listen", `127.0.0.1:${internalPort}`,
    ]);
    await untilAnswers(node, `http://127.0.0.1:${internalPort}/readyz`);
    nodes.push({ node, url: `ws://127.0.0.1:${publicPort}/ws` });
}

async function cost(urls) {
    const file = join(directory, "report.json");
    const where = urls.flatMap((url) => ["--url", url]);
    const load = ["fanout", ...where, "--clients", CLIENTS, "--rate", "20", "--duration", "6s", "--json", file];
    const code = await run(join(root, "target/release/loadtest"), load);
    if (code !== 0) throw new Error(`loadtest ended with ${code}`);
    const cost = JSON.parse(readFileSync(file, "utf8")).server?.cpu_us_per_delivery;
    if (!(cost > 0)) throw new Error("no figure: the report has no CPU of the nodes");
    return cost;
}

const median = (figures) => figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)];
const [one, two] = [[], []];
for (let round = 0; round < ROUNDS; round++) {
    one.push(await cost([nodes[0].url]));
    two.push(await cost(nodes.map(({ url }) => url)));
}
const ratio = median(two) / median(one);
console.log(`\n| figure | target | measured | met |\n|---|---|---|---|`);
const met = ratio <= 1.1 ? "yes" : "**no**";
console.log(`| CPU of two nodes for a fan-out to ${CLIENTS}, x one node | <= 1.1 | ${ratio.toFixed(2)} | ${met} |`);
console.log(`\none node ${median(one).toFixed(2)} us a delivery, two ${median(two).toFixed(2)} us`);
for (const { node } of nodes) await kill(node);
await kill(redis);
