// The JSON protocol on /ws and the bare /raw/{channel}, spoken by npm `ws`, which knows nothing of Skywave.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { channel, Client, post, PRESENCE, PUBLIC_2, Socket, SUBPROTOCOL, wsUrl } from "./support.mjs";

const PRESENT = { skip: !PRESENCE && "the node has no presence (SKYWAVE_PRESENCE=0)" };
const TWO_NODES = { skip: !PUBLIC_2 && "one node only (SKYWAVE_PUBLIC_2 is not set)" };

describe("/ws", () => {
  it("speaks skywave.v1.json, asked for or not", async () => {
    const client = await Client.connect();
    assert.equal(client.ws.protocol, SUBPROTOCOL);
    assert.match(client.client, /./);
    assert.match(client.session, /./);
    assert.match(client.node, /./);
    assert.ok(client.ping_interval_ms > 0);
    await client.close();

    const bare = await Client.open(wsUrl("/ws"));
    assert.equal(bare.ws.protocol, "");
    assert.ok((await bare.ask({ connect: {} })).connected);
    await bare.close();
  });

  it("greets a client that does not begin with connect before answering it", async () => {
    const client = await Client.open(wsUrl("/ws"), SUBPROTOCOL);
    client.say({ id: 1, ping: {} });
    const first = await client.next();
    assert.ok(first.connected && first.id === undefined, JSON.stringify(first));
    assert.deepEqual(await client.next(), { id: 1, pong: {} });
    await client.close();
  });

  it("carries a publication to every subscriber, the publisher too, with one position", async () => {
    const [ada, bob] = [await Client.connect(), await Client.connect()];
    const name = channel("chat");
    const { position } = await ada.subscribe(name);
    await bob.subscribe(name);
    const data = { text: "Grüße 👋", list: [1, 2.5, null, true], nested: { a: "b\nc" } };
    const { published } = await ada.ask({ publish: { channel: name, data } });
    assert.equal(published.duplicate, false);
    assert.deepEqual(published.position, { epoch: position.epoch, offset: position.offset + 1 });
    for (const reader of [ada, bob]) {
      const got = await reader.publication(name);
      assert.deepEqual(got.data, data);
      assert.equal(got.client, ada.client);
      assert.deepEqual({ epoch: got.epoch, offset: got.offset }, published.position);
    }
    await ada.close();
    await bob.close();
  });

  it("leaves out one's own with echo false", async () => {
    const [ada, bob] = [await Client.connect(), await Client.connect()];
    const name = channel();
    await ada.subscribe(name, { echo: false });
    await bob.subscribe(name);
    await ada.ask({ publish: { channel: name, data: "mine" } });
    await bob.ask({ publish: { channel: name, data: "theirs" } });
    assert.equal((await ada.publication(name)).data, "theirs");
    await ada.close();
    await bob.close();
  });

  it("takes several commands in one frame, and newlines inside data", async () => {
    const client = await Client.open(wsUrl("/ws"), SUBPROTOCOL);
    const name = channel();
    const pretty = JSON.stringify({ lines: ["one", "two"] }, null, 2);
    client.say({ id: 1, connect: {} }, { id: 2, subscribe: { channel: name } }, { id: 3, ping: {} });
    await answers(client, [[1, "connected"], [2, "subscribed"], [3, "pong"]]);
    client.say({ id: 4, publish: { channel: name, data: 1 } }, { id: 5, ping: {} });
    client.ws.send(`{"id":6,"publish":{"channel":"${name}","data":${pretty}}}`);
    await answers(client, [[4, "published"], [5, "pong"], [6, "published"]]);
    assert.equal((await client.publication(name)).data, 1);
    assert.deepEqual((await client.publication(name)).data, { lines: ["one", "two"] });
    await client.close();
  });

  // The publish is allowed because of the subscription before it, so it must not overtake it.
  it("returns a publication whose command came right behind its subscribe", async () => {
    const client = await Client.open(wsUrl("/ws"), SUBPROTOCOL);
    const name = channel();
    client.say({ id: 1, connect: {} }, { id: 2, subscribe: { channel: name } }, { id: 3, publish: { channel: name, data: 1 } });
    await answers(client, [[1, "connected"], [2, "subscribed"], [3, "published"]]);
    assert.equal((await client.publication(name)).data, 1);
    await client.close();
  });

  it("subscribes with connect, and says of each channel what became of it", async () => {
    const name = channel();
    const client = await Client.connect({ subscribe: [{ channel: name }, { channel: "" }] });
    assert.equal(client.subscribed[0].channel, name);
    assert.ok(client.subscribed[0].position);
    assert.equal(client.subscribed[1].channel, "");
    assert.equal(client.subscribed[1].error.code, "bad_request");
    await client.close();
  });

  it("answers an unasked publish with nothing, and a repeated key with the first position", async () => {
    const client = await Client.connect();
    const name = channel();
    await client.subscribe(name);
    client.say({ publish: { channel: name, data: "quiet" } });
    const first = (await client.ask({ publish: { channel: name, data: "once", key: "k1" } })).published;
    const again = (await client.ask({ publish: { channel: name, data: "once", key: "k1" } })).published;
    assert.deepEqual(again, { position: first.position, duplicate: true });
    assert.equal((await client.publication(name)).data, "quiet");
    assert.equal((await client.publication(name)).data, "once");
    assert.ok((await client.ask({ ping: {} })).pong);
    assert.deepEqual(client.rest, []);
    await client.close();
  });

  it("keeps history, and hands it out in order", async () => {
    const { client, name, positions } = await withPublications(5);
    const all = (await client.ask({ history: { channel: name } })).history;
    assert.deepEqual(all.publications.map((p) => p.data), [1, 2, 3, 4, 5]);
    assert.deepEqual(all.position, positions[4]);
    const newest = (await client.ask({ history: { channel: name, limit: 2 } })).history;
    assert.deepEqual(newest.publications.map((p) => p.data), [4, 5]);
    const since = (await client.ask({ history: { channel: name, since: positions[1], limit: 2 } })).history;
    assert.deepEqual(since.publications.map((p) => p.data), [3, 4]);
    assert.equal(since.complete, true);
    assert.equal(since.more, true);
    const only = (await client.ask({ history: { channel: name, limit: 0 } })).history;
    assert.deepEqual([only.publications ?? [], only.position], [[], positions[4]]);
    const foreign = (await client.ask({ history: { channel: name, since: { epoch: "nobody", offset: 1 } } })).history;
    assert.equal(foreign.complete, false);
    await client.close();
  });

  it("recovers what was missed, once and in order, or says that it cannot", async () => {
    const { client, name, positions } = await withPublications(5);
    await client.close();
    const back = await Client.connect({ session: client.session });
    assert.equal(back.client, client.client, "the session keeps the client id");
    const { recovered, publications, position } = await back.subscribe(name, { since: positions[1] });
    assert.equal(recovered, true);
    assert.deepEqual(publications.map((p) => p.data), [3, 4, 5]);
    assert.deepEqual(position, positions[4]);
    await back.ask({ publish: { channel: name, data: 6 } });
    assert.equal((await back.publication(name)).data, 6);
    await back.close();

    const stranger = await Client.connect();
    const lost = await stranger.subscribe(name, { since: { epoch: "nobody", offset: 2 } });
    assert.equal(lost.recovered, false);
    await stranger.close();
  });

  it("closes the older connection of a session with 4506", async () => {
    const older = await Client.connect();
    const newer = await Client.connect({ session: older.session });
    assert.equal((await older.closed).code, 4506);
    assert.ok((await newer.ask({ ping: {} })).pong);
    await newer.close();
  });

  it("carries what the server API publishes", async () => {
    const client = await Client.connect();
    const name = channel();
    await client.subscribe(name);
    const answer = await post("publish", { channel: name, data: { from: "a back end" } });
    assert.equal(answer.status, 200);
    const { position } = await answer.json();
    const got = await client.publication(name);
    assert.deepEqual(got.data, { from: "a back end" });
    assert.equal(got.client, undefined);
    assert.deepEqual({ epoch: got.epoch, offset: got.offset }, position);
    await client.close();
  });

  it("tells who is there, who comes and who goes", PRESENT, async () => {
    const name = channel();
    const ada = await Client.connect({ info: { name: "Ada" } });
    const { members, total } = await ada.subscribe(name, { presence: true });
    assert.deepEqual([members.map((m) => m.client), total], [[ada.client], 1]);
    const bob = await Client.connect({ info: { name: "Bob" } });
    await bob.subscribe(name);
    const { join } = await ada.next((said) => said.join, "join");
    assert.equal(join.member.client, bob.client);
    assert.deepEqual(join.member.info, { name: "Bob" });
    const { presence } = await bob.ask({ presence: { channel: name } });
    assert.deepEqual(presence.members.map((m) => m.info.name).sort(), ["Ada", "Bob"]);
    await bob.close();
    assert.equal((await ada.next((said) => said.leave, "leave")).leave.member.client, bob.client);
    await ada.close();
  });

  it("joins two nodes", TWO_NODES, async () => {
    const [here, there] = [await Client.connect(), await Client.connect({ base: PUBLIC_2 })];
    assert.notEqual(here.node, there.node);
    const name = channel();
    await here.subscribe(name);
    await there.subscribe(name);
    const { published } = await there.ask({ publish: { channel: name, data: "across" } });
    const got = await here.publication(name);
    assert.deepEqual([got.data, got.offset], ["across", published.position.offset]);
    await there.close();
    const moved = await Client.connect({ session: here.session, base: PUBLIC_2 });
    assert.equal(moved.client, here.client);
    assert.equal((await moved.subscribe(name, { since: { epoch: got.epoch, offset: got.offset } })).recovered, true);
    await moved.close();
  });
});

describe("/raw/{channel}", () => {
  const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const large = Buffer.alloc(60 * 1024, everyByte);
  const samples = {
    "a word": "hello",
    "UTF-8 with emoji": "Grüße, 世界, 👩‍🚀 and \u0000\u2028",
    "60 KiB of text": "åß∂ƒ".repeat(Math.floor((60 * 1024) / 9)),
    "JSON, with its spaces": '{ "a" : 1,\n "b" : [ ] }',
    "empty text": "",
    "all 256 byte values": everyByte,
    "60 KiB of bytes": large,
    "no bytes": Buffer.alloc(0),
  };
  for (const [what, sample] of Object.entries(samples)) {
    it(`returns ${what} as it was, to the sender and to others`, async () => {
      const path = `/raw/${channel()}`;
      const [ada, bob] = [await Socket.open(wsUrl(path)), await Socket.open(wsUrl(path))];
      ada.ws.send(sample);
      for (const reader of [ada, bob]) {
        const { data, binary } = await reader.next();
        assert.equal(binary, Buffer.isBuffer(sample));
        assert.ok(data.equals(Buffer.from(sample)), `${data.length} bytes came`);
      }
      await ada.close();
      await bob.close();
    });
  }

  it("decodes the channel's name", async () => {
    const name = `${channel("räume")}/a b`;
    const raw = await Socket.open(wsUrl(`/raw/${encodeURIComponent(name)}`));
    assert.equal((await post("publish", { channel: name, data: { x: 1 } })).status, 200);
    assert.deepEqual(JSON.parse((await raw.next()).data), { x: 1 });
    await raw.close();
  });

  it("shares its channel with clients of the JSON protocol", async () => {
    const name = channel();
    const raw = await Socket.open(wsUrl(`/raw/${name}`));
    const client = await Client.connect();
    await client.subscribe(name);
    raw.ws.send("not JSON");
    raw.ws.send(everyByte);
    assert.equal((await client.publication(name)).data, "not JSON");
    assert.equal((await client.publication(name)).data_base64, everyByte.toString("base64"));
    await raw.next();
    await raw.next();
    await client.ask({ publish: { channel: name, data: "a string" } });
    const { data, binary } = await raw.next();
    assert.deepEqual([data.toString(), binary], ['"a string"', false], "a JSON string leaves as JSON text");
    await raw.close();
    await client.close();
  });
});

async function answers(client, expected) {
  for (const [id, key] of expected) {
    assert.ok((await client.next((said) => said.id === id, `reply ${id}`))[key], `${id} is ${key}`);
  }
}

async function withPublications(count) {
  const client = await Client.connect();
  const name = channel();
  await client.subscribe(name);
  const positions = [];
  for (let data = 1; data <= count; data++) {
    positions.push((await client.ask({ publish: { channel: name, data } })).published.position);
    await client.publication(name);
  }
  return { client, name, positions };
}
