// One channel of a Skywave node, over a WebSocket that comes back by itself. Bare on purpose: what the chat page shows of a
// broken connection is counted here, from the protocol, and does not lean on the client in skywave.js.
//
// The whole client: connect and subscribe in one command, publish, ask, notice a dead connection, come back with full
// jitter and recover from the last position that was seen. It never queues what it is to send: what cannot go now is the
// caller's to drop or to keep.

import { Recovery } from "./recovery.js";

const SUBPROTOCOL = "skywave.v1.json";
const CONNECT = 1;
const TOP = 2;
const LOST = { code: "lost", message: "the connection was lost", retry: true }; // among the node's errors, ours
const PATIENCE_MS = 10_000; // for an answer, be it to the first frame or to a ping
const BACKOFF_MS = 500; // doubled with each attempt that failed, up to the cap
const BACKOFF_CAP_MS = 20_000;
const SETTLED_MS = 5_000; // a connection that lived shorter counts as an attempt that failed

export function attempt(act) {
  try {
    act();
  } catch (error) {
    console.error(error);
  }
}

export class Connection {
  #url;
  #channel;
  #info; // () => what presence shows of this client
  #on; // { open, lost, recovered, publication, members, join, leave, gap, backplane, refused }
  #socket;
  #node;
  #session; // keeps the client id over a reconnect, on any node
  #since; // the last position seen: { epoch, offset }
  #farewell; // the node's `disconnect`, which comes before its close frame
  #opened; // when the subscription stood
  #recovery; // while what was missed comes in
  #asked = new Map(); // id of a command -> who wants its answer
  #held; // while frozen: what the socket said meanwhile
  #attempt = 0;
  #lastId = TOP;
  #heard = 0;
  #pinged = 0;
  #quietUntil = 0;
  #retry;
  #beat;

  constructor({ url, channel, info, on }) {
    this.#url = url;
    this.#channel = channel;
    this.#info = info;
    this.#on = on;
  }

  start() {
    this.#drop();
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    this.#farewell = this.#opened = this.#node = undefined;
    this.#heard = performance.now();
    this.#pinged = 0;
    socket.onopen = () => this.#greet();
    socket.onmessage = ({ data }) => this.#arrive(() => this.#receive(socket, data));
    socket.onclose = ({ code, reason }) => this.#arrive(() => socket === this.#socket && this.#lose(code, reason));
    this.#beat = setInterval(() => this.#check(), 1_000);
  }

  // Leaves for good: close code 1000 is a leave at once for presence, without the grace of a lost connection.
  stop() {
    this.#socket?.close(1000);
    this.#drop();
  }

  get isOpen() {
    return this.#opened !== undefined;
  }

  // Whether a publication would go out now: subscribed, not told to be quiet, and nothing waits in the socket.
  get isReady() {
    return this.isOpen && this.#socket.bufferedAmount === 0 && performance.now() >= this.#quietUntil;
  }

  // The last position that was seen; none before the first connection, or on a channel that is live only.
  get position() {
    return this.#since;
  }

  // Without an id: only an error is answered.
  publish(data) {
    this.#send({ publish: { channel: this.#channel, data } });
  }

  // `answered` gets the reply, or the error, in its turn among all that comes; error `lost` when no answer will come.
  ask(command, answered) {
    if (!this.isOpen) return answered({ error: LOST });
    const id = ++this.#lastId;
    this.#asked.set(id, answered);
    this.#send({ id, ...command });
  }

  // As a network that fails: what is on its way is lost, and for a while there is no way back.
  cut(ms) {
    // Any code but 1000 and 1001 is a lost client to the node, and presence waits for it.
    this.#socket?.close(3000);
    this.#lose(1006, "cut", ms);
  }

  // As a page that hangs: the socket stays open and fills, nothing is taken from it until `thaw`.
  freeze() {
    this.#held ??= [];
  }

  thaw() {
    const held = this.#held ?? [];
    this.#held = undefined;
    let waited;
    if (this.isOpen && this.#since && !this.#recovery) waited = this.#recovery = new Recovery("freeze", this.#since);
    for (const event of held) event();
    // If the end was among it, the next connection recovers.
    waited?.close();
    this.#settle();
  }

  // How much waits while frozen; undefined when not.
  get held() {
    return this.#held?.length;
  }

  #greet() {
    const subscribe = [{ channel: this.#channel, presence: true, since: this.#since }];
    const commands = [{ id: CONNECT, connect: { info: this.#info(), session: this.#session, subscribe } }];
    if (this.#since) {
      // How far the channel has come by now: what is given up to there was missed, what follows is new.
      commands.push({ id: TOP, history: { channel: this.#channel, limit: 0 } });
      this.#recovery = new Recovery("cut", this.#since);
    }
    this.#send(...commands);
  }

  #send(...commands) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(commands.map((c) => JSON.stringify(c)).join("\n"));
  }

  #arrive(event) {
    this.#heard = performance.now();
    this.#pinged = 0;
    if (this.#held) this.#held.push(event);
    else event();
  }

  // A frame carries one object or several, one on each line.
  #receive(socket, frame) {
    for (const line of frame.split("\n")) {
      // An earlier line may have been the end. And what cannot be shown must not take what follows with it.
      if (line && socket === this.#socket) attempt(() => this.#take(JSON.parse(line)));
    }
  }

  #take(said) {
    if (said.connected) this.#connected(said.connected);
    else if (said.id === TOP) this.#top(said.history);
    else if (said.id === CONNECT) this.#refused(said.error);
    else if (said.id !== undefined) this.#answer(said);
    else if (said.publication) this.#publication(said.publication);
    else if (said.join) this.#on.join(said.join.member);
    else if (said.leave) this.#on.leave(said.leave.member);
    else if (said.subscribed) this.#members(said.subscribed);
    else if (said.gap) this.#gap(said.gap);
    else if (said.backplane) this.#on.backplane(said.backplane.state);
    else if (said.disconnect) this.#farewell = said.disconnect;
    else if (said.unsubscribed) this.#abandon({ code: 1000, reason: said.unsubscribed.reason ?? "unsubscribed" });
    else if (said.error) {
      this.#quietUntil = performance.now() + (said.error.after_ms ?? 0);
      this.#on.refused(said.error);
    }
  }

  #connected(connected) {
    this.#node = connected;
    this.#session = connected.session;
    const mine = connected.subscribed.find(({ channel }) => channel === this.#channel);
    if (mine?.error) this.#refused(mine.error);
    else if (mine) this.#open(mine);
  }

  #open({ position, recovered, publications = [], members, total }) {
    const { client, node } = this.#node;
    const isFirst = this.#since === undefined;
    this.#opened = performance.now();
    if (!recovered) this.#recovery = undefined;
    this.#on.open({ client, node, members, total, recovered, isFirst });
    this.#recovery?.reach(position);
    for (const publication of publications) attempt(() => this.#publication(publication));
    this.#since = position;
    this.#settle();
  }

  #top(history) {
    // Without an answer the reply to `connect` alone says what was missed.
    this.#recovery?.reach(history?.position);
    this.#recovery?.close();
    this.#settle();
  }

  #settle() {
    if (!this.isOpen || !this.#recovery?.isDone) return;
    const { report } = this.#recovery;
    this.#recovery = undefined;
    this.#on.recovered(report);
  }

  #publication(publication) {
    const { epoch, offset } = publication;
    // A live-only channel has no positions, and nothing to recover.
    if (offset === undefined) return this.#on.publication(publication, false);
    if (epoch === this.#since?.epoch && offset <= this.#since.offset) return; // seen
    const missed = this.#recovery?.take(publication) ?? false;
    this.#since = { epoch, offset };
    attempt(() => this.#on.publication(publication, missed));
    this.#settle();
  }

  // Unasked: the list as it is now, whatever was joined or left before.
  #members({ channel, members, total }) {
    if (channel === this.#channel && members) this.#on.members({ members, total });
  }

  #gap(gap) {
    const before = this.#since;
    this.#since = gap.position ?? this.#since;
    this.#recovery = undefined; // it did not succeed
    this.#on.gap(gap, before);
  }

  #answer(said) {
    const answered = this.#asked.get(said.id);
    this.#asked.delete(said.id);
    answered?.(said); // a pong is enough by coming
  }

  // There is no subscription, so there is nothing to stay for.
  #refused(error) {
    this.#farewell = { reconnect: error.retry === true, after_ms: error.after_ms };
    this.#abandon({ code: 1011, reason: error.message || error.code });
  }

  // A browser does not show WebSocket pings, so silence is noticed here.
  #check() {
    const now = performance.now();
    if (this.#opened === undefined) {
      if (now - this.#heard > PATIENCE_MS) this.#abandon({ code: 1006, reason: "no answer" });
    } else if (this.#pinged) {
      if (now - this.#pinged > PATIENCE_MS) this.#abandon({ code: 1006, reason: "silence" });
    } else if (now - this.#heard > this.#node.ping_interval_ms) {
      this.#pinged = now;
      this.#send({ id: ++this.#lastId, ping: {} });
    }
  }

  // Does not wait for the close event: over a dead network that takes minutes.
  #abandon({ code, reason }) {
    this.#socket.close();
    this.#lose(code, reason);
  }

  #lose(code, reason, awayMs = 0) {
    const lived = this.#opened === undefined ? 0 : performance.now() - this.#opened;
    const farewell = this.#farewell;
    this.#drop();
    const comesBack = mayComeBack(code) && farewell?.reconnect !== false;
    this.#on.lost({ code, reason: farewell?.reason || reason, comesBack });
    if (!comesBack) return;
    this.#attempt = lived > SETTLED_MS ? 0 : this.#attempt + 1;
    // The node's own moment first, then full jitter, so that a thousand pages do not come back together.
    const spread = Math.min(BACKOFF_CAP_MS, BACKOFF_MS * 2 ** this.#attempt);
    const earliest = Math.max(awayMs, farewell?.after_ms ?? 0);
    this.#retry = setTimeout(() => this.start(), earliest + Math.random() * spread);
  }

  #drop() {
    clearInterval(this.#beat);
    clearTimeout(this.#retry);
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = this.#opened = this.#recovery = this.#held = undefined;
    const unanswered = [...this.#asked.values()];
    this.#asked.clear();
    for (const answered of unanswered) answered({ error: LOST });
  }
}

// 1000 means that both have said what they wanted; 4500-4999 that coming back would not help.
export function mayComeBack(code) {
  return code !== 1000 && !(code >= 4500 && code <= 4999);
}
