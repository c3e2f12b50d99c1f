// A node dies without a word: its clients come back on the other one and get exactly what they missed; back ends repeat
// what had no answer, under its key, and nothing is there twice.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { assertAllGotAll, payload } from "./checks.mjs";
import { Client } from "./client.mjs";
import { Cluster } from "./cluster.mjs";
import { kill, until } from "./processes.mjs";

const channel = "deep:death";

test("clients of a killed node recover everything elsewhere", { timeout: 120_000 }, async (t) => {
    const cluster = await Cluster.start("death");
    t.after(() => cluster.stop());
    const clients = await Promise.all(Array.from({ length: 50 }, () => new Client(cluster.balancer.public, channel).connect()));
    t.after(() => clients.forEach((client) => client.close()));
    const [victim, other] = cluster.nodes;
    const orphans = clients.filter((client) => client.node === victim.name);
    assert.ok(orphans.length >= 20 && orphans.length < clients.length, "both nodes hold clients");

    const sent = [];
    let repeated = 0;
    const backEnd = async (first, count) => {
        for (let number = 0; number < count; number++) {
            const data = payload(first.name, number);
            const command = { channel, data, key: `${first.name} ${number}` };
            await first.call("publish", command).catch(() => {
                repeated += 1;
                return other.call("publish", command);
            });
            sent.push(data);
            await sleep(2);
        }
    };
    const backEnds = Promise.all([backEnd(victim, 1_000), backEnd(other, 1_000)]);
    await until(() => "some publications", () => sent.length >= 600);
    await kill(victim.child);
    const died = Date.now();
    await until(() => "all clients on the other node", () => clients.every(({ node }) => node === other.name));
    t.diagnostic(`${orphans.length} clients were back ${Date.now() - died} ms after their node died`);
    await backEnds;

    await until(() => "all publications with each client", () => clients.every(({ publications }) => publications.length >= sent.length)).catch(
        (error) => t.diagnostic(error.message), // the checks below say more
    );
    t.diagnostic(`${sent.length} publications, ${repeated} sent again under their key`);
    assertAllGotAll(clients, sent);
    assert.ok(orphans.every(({ reconnects }) => reconnects > 0));
    assert.ok(clients.every((client) => orphans.includes(client) || client.reconnects === 0), "the others noticed nothing");
});
