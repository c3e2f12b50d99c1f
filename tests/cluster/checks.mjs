// What every client of a channel must have got: all of it, once, in one order, unchanged.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";

const hash = (data) => createHash("sha1").update(JSON.stringify(data)).digest("base64");

// A payload that no other one is equal to; `number` makes it findable.
export const payload = (by, number) => ({ by, number, filler: createHash("sha256").update(`${by} ${number}`).digest("hex") });

// `sent`: the payloads that were acknowledged; `clients`: those that were subscribed all the while. After a failover of Redis
// there is another epoch, and then not `isOneEpoch`.
export function assertAllGotAll(clients, sent, { isOneEpoch = true } = {}) {
    const expected = new Set(sent.map(hash));
    assert.equal(expected.size, sent.length, "the test's own payloads differ");
    const order = clients[0].publications.map(line);
    for (const [i, { publications, complaints }] of clients.entries()) {
        const who = `client ${i}`;
        assert.deepEqual(complaints, [], who);
        const got = publications.map(({ data }) => hash(data));
        const distinct = new Set(got);
        assert.deepEqual(
            { lost: [...expected].filter((one) => !distinct.has(one)).length, doubled: got.length - distinct.size },
            { lost: 0, doubled: 0 },
            who,
        );
        assert.equal(got.length, sent.length, `${who} got nothing that nobody sent`);
        const lines = publications.map(line);
        const differs = lines.findIndex((one, at) => one !== order[at]);
        assert.equal(differs, -1, `${who} and client 0 differ at ${differs}: ${lines[differs]} and ${order[differs]}`);
    }
    if (isOneEpoch) assertNoHoles(clients[0].publications);
}

// One epoch, and offsets that go up by one.
function assertNoHoles(publications) {
    const [first] = publications;
    publications.forEach(({ epoch, offset }, i) => {
        assert.deepEqual({ epoch, offset }, { epoch: first.epoch, offset: first.offset + i }, `publication ${i}`);
    });
}

const line = ({ epoch, offset, data }) => `${epoch}:${offset} ${hash(data)}`;
