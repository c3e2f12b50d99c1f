// The chat in real browsers (tests/clients/chat.test.mjs) with each page on another node, then all through the balancer.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Cluster } from "./cluster.mjs";
import { root, run } from "./processes.mjs";

test("the chat over two nodes and through the balancer", { timeout: 300_000 }, async (t) => {
    const cluster = await Cluster.start("chat");
    t.after(() => cluster.stop());
    const [one, two] = cluster.nodes;
    await t.test("a page on each node", () => chat(one.public, two.public));
    await t.test("pages through the balancer", () => chat(cluster.balancer.public));
});

// With a second address the chat's tests check that their pages are on two nodes.
async function chat(first, second) {
    const env = { SKYWAVE_PUBLIC: first, SKYWAVE_PUBLIC_2: second, SKYWAVE_INFO: "0" };
    env.NODE_TEST_CONTEXT = undefined; // else the inner runner reports to the outer one, in their private format
    const code = await run(process.execPath, ["--test", join(root, "tests/clients/chat.test.mjs")], env);
    assert.equal(code, 0, "tests/clients/chat.test.mjs passed");
}
