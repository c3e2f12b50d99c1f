// The protobuf protocol on /ws, spoken by npm `ws` and `protobufjs`, which know nothing of Skywave but the .proto files.

import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { channel, Client, INFO, post, PRESENCE, Socket, wsUrl } from "./support.mjs";

const SCHEMA = fileURLToPath(new URL("../../proto/proto", import.meta.url));
const schema = new protobuf.Root();
schema.resolvePath = (_, target) => join(SCHEMA, target);
await schema.load("skywave/v1/client.proto", { keepCase: true });
const [Command, Reply] = ["skywave.v1.Command", "skywave.v1.Reply"].map((name) => schema.lookupType(name));

// A client of the protobuf protocol.
class Binary extends Socket {
  #id = 0;

  static async connect(connect = {}) {
    const client = await this.open(wsUrl("/ws"), "skywave.v1.protobuf");
    return Object.assign(client, (await client.ask({ connect })).connected);
  }

  received(data, binary) {
    assert.ok(binary, "a binary message");
    for (const reader = protobuf.Reader.create(data); reader.pos < reader.len; ) {
      this.keep(Reply.toObject(Reply.decodeDelimited(reader), { longs: Number, defaults: true }));
    }
  }

  say(...commands) {
    this.ws.send(Buffer.concat(commands.map((command) => Command.encodeDelimited(Command.fromObject(command)).finish())));
  }

  ask(command) {
    const id = ++this.#id;
    this.say({ id, ...command });
    return this.next((said) => said.id === id, `reply to ${JSON.stringify(command).slice(0, 200)}`);
  }

  async publication() {
    return (await this.next((said) => said.publication, "publication")).publication;
  }
}

const json = (value) => ({ json: Buffer.from(JSON.stringify(value)) });
const text = (value) => ({ text: Buffer.from(value) });
const read = (payload) => JSON.parse(Buffer.from(payload.json));

describe("skywave.v1.protobuf", () => {
  it("connects, subscribes, publishes and reads the history", async () => {
    const [ada, bob] = [await Binary.connect(), await Binary.connect()];
    assert.equal(ada.ws.protocol, "skywave.v1.protobuf");
    assert.match(ada.client, /./);
    assert.ok(ada.ping_interval_ms > 0);
    const name = channel("chat");
    const { position } = (await ada.ask({ subscribe: { channel: name } })).subscribed;
    await bob.ask({ subscribe: { channel: name, echo: false } });
    const data = { text: "Grüße 👋", list: [1, 2.5, null] };
    const { published } = await ada.ask({ publish: { channel: name, data: json(data), key: "k1" } });
    assert.deepEqual(published, { position: { epoch: position.epoch, offset: position.offset + 1 }, duplicate: false });
    const again = (await ada.ask({ publish: { channel: name, data: json(data), key: "k1" } })).published;
    assert.deepEqual(again, { ...published, duplicate: true });
    for (const reader of [ada, bob]) {
      const got = await reader.publication();
      assert.deepEqual([got.channel, got.client, got.position], [name, ada.client, published.position]);
      assert.deepEqual(read(got.data), data);
    }
    await bob.ask({ publish: { channel: name, data: json("mine") } });
    await ada.ask({ publish: { channel: name, data: json("yours") } });
    assert.equal(read((await bob.publication()).data), "yours");
    const { history } = await ada.ask({ history: { channel: name, since: published.position, limit: 1 } });
    assert.deepEqual([history.publications.map((p) => read(p.data)), history.complete, history.more], [["mine"], true, true]);
    assert.deepEqual((await ada.ask({ unsubscribe: { channel: name } })).unsubscribed, { channel: name });
    assert.ok((await ada.ask({ ping: {} })).pong);
    await ada.close();
    await bob.close();
  });

  it("comes back with what it missed", async () => {
    const client = await Binary.connect();
    const name = channel();
    const { position } = (await client.ask({ subscribe: { channel: name } })).subscribed;
    await client.close();
    for (const data of [1, 2, 3]) assert.equal((await post("publish", { channel: name, data })).status, 200);
    const foreign = { epoch: "nobody", offset: 1 };
    const subscribe = [{ channel: name, since: position }, { channel: channel(), since: foreign }, { channel: "" }];
    const back = await Binary.connect({ session: client.session, subscribe });
    assert.equal(back.client, client.client);
    const [missed, lost, refused] = back.subscribed;
    assert.equal(missed.subscribed.recovered, true);
    assert.deepEqual(missed.subscribed.publications.map((p) => read(p.data)), [1, 2, 3]);
    assert.equal(lost.subscribed.recovered, false);
    assert.equal(refused.error.code, "bad_request");
    await post("publish", { channel: name, data: 4 });
    assert.equal(read((await back.publication()).data), 4);
    await back.close();
  });

  it("tells who is there, who comes and who goes", { skip: !PRESENCE && "the node has no presence" }, async () => {
    const name = channel();
    const info = { info: Buffer.from('{"name":"Ada"}') };
    const ada = await Binary.connect(info);
    const { members, total } = (await ada.ask({ subscribe: { channel: name, presence: true } })).subscribed;
    assert.deepEqual([members.map((m) => m.client), total], [[ada.client], 1]);
    if (INFO) assert.deepEqual(JSON.parse(Buffer.from(members[0].info)), { name: "Ada" });
    const bob = await Client.connect(); // of the JSON protocol
    await bob.subscribe(name);
    assert.equal((await ada.next((said) => said.join, "join")).join.member.client, bob.client);
    const { presence } = await ada.ask({ presence: { channel: name } });
    assert.deepEqual(presence.members.map((m) => m.client).sort(), [ada.client, bob.client].sort());
    await bob.close();
    assert.equal((await ada.next((said) => said.leave, "leave")).leave.member.client, bob.client);
    await ada.close();
  });

  it("shares its channel with clients of the JSON protocol, payloads of every kind", async () => {
    const [binary, other] = [await Binary.connect(), await Client.connect()];
    const name = channel();
    await binary.ask({ subscribe: { channel: name } });
    await other.subscribe(name);
    const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const kinds = [json({ x: 1 }), text("no JSON"), text("[1]"), { binary: everyByte }];
    for (const data of kinds) assert.ok((await binary.ask({ publish: { channel: name, data } })).published);
    for (const data of kinds) assert.deepEqual((await binary.publication()).data, data, "its own, as they were");
    for (const data of [{ x: 1 }, "no JSON", [1]]) assert.deepEqual((await other.publication(name)).data, data);
    assert.equal((await other.publication(name)).data_base64, everyByte.toString("base64"));
    await other.ask({ publish: { channel: name, data: { y: 2 } } });
    await other.ask({ publish: { channel: name, data_base64: "AP8=" } });
    assert.deepEqual(read((await binary.publication()).data), { y: 2 });
    assert.deepEqual((await binary.publication()).data, { binary: Buffer.from([0, 255]) });
    await binary.close();
    await other.close();
  });

  it("takes several commands in one message, in order", async () => {
    const client = await Binary.open(wsUrl("/ws"), "skywave.v1.protobuf");
    const name = channel();
    const data = json(1);
    client.say({ id: 1, connect: {} }, { id: 2, subscribe: { channel: name } }, { id: 3, publish: { channel: name, data } });
    for (const [id, word] of [[1, "connected"], [2, "subscribed"], [3, "published"]]) {
      assert.ok((await client.next((said) => said.id === id, `reply ${id}`))[word], word);
    }
    assert.equal(read((await client.publication()).data), 1);
    await client.close();
  });

  it("refuses what is no command, and goes on", async () => {
    const client = await Binary.connect();
    const refusals = [
      [{ connect: {} }, "bad_request"],
      [{}, "bad_request"],
      [{ subscribe: { channel: "" } }, "bad_request"],
      [{ publish: { channel: channel(), data: json(1) } }, "permission_denied"],
      [{ publish: { channel: channel(), data: text("") , key: "" } }, "bad_request"],
      [{ rpc: { method: "nobody answers" } }, "not_found"],
    ];
    for (const [command, code] of refusals) assert.equal((await client.ask(command)).error?.code, code, JSON.stringify(command));
    for (const bad of ['{"ping":{}}', Buffer.from([]), Buffer.from([5, 1, 2]), Buffer.alloc(40, 255)]) {
      client.ws.send(bad);
      assert.equal((await client.next((said) => said.error && said.id === undefined, "refusal")).error.code, "bad_request");
    }
    assert.ok((await client.ask({ ping: {} })).pong);
    await client.close();
  });
});
