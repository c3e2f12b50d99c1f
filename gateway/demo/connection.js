// One channel of a Skywave node, over a WebSocket that comes back by itself.
//
// The whole client: connect and subscribe in one frame, publish, notice a dead connection, come back with full jitter
// and recover from the last position that was seen. It never queues: what cannot be sent now is the caller's to drop.

const SUBPROTOCOL = "skywave.v1.json";
const CONNECT = 1;
const SUBSCRIBE = 2;
const PATIENCE_MS = 10_000; // for an answer, be it to the first frame or to a ping
const BACKOFF_MS = 500; // doubled with each attempt that failed, up to the cap
const BACKOFF_CAP_MS = 20_000;
const SETTLED_MS = 5_000; // a connection that lived shorter counts as an attempt that failed

export class Connection {
  #url;
  #channel;
  #info; // () => what presence shows of this client
  #on; // { open, lost, publication, join, leave, gap, backplane, refused }
  #socket;
  #node;
  #session; // keeps the client id over a reconnect, on any node
  #since; // the last position seen: { epoch, offset }
  #farewell; // the node's `disconnect`, which comes before its close frame
  #opened; // when the subscription stood
  #attempt = 0;
  #lastId = SUBSCRIBE;
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
    socket.onmessage = ({ data }) => this.#receive(socket, data);
    socket.onclose = ({ code, reason }) => this.#lose(code, reason);
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

  // Without an id: only an error is answered.
  publish(data) {
    this.#send({ publish: { channel: this.#channel, data } });
  }

  #greet() {
    const connect = { info: this.#info(), session: this.#session };
    const subscribe = { channel: this.#channel, presence: true, since: this.#since };
    this.#send({ id: CONNECT, connect }, { id: SUBSCRIBE, subscribe });
  }

  #send(...commands) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(commands.map((c) => JSON.stringify(c)).join("\n"));
  }

  // A frame carries one object or several, one on each line.
  #receive(socket, frame) {
    this.#heard = performance.now();
    this.#pinged = 0;
    for (const line of frame.split("\n")) {
      // An earlier line may have been the end.
      if (line && socket === this.#socket) this.#take(JSON.parse(line));
    }
  }

  #take(said) {
    if (said.connected) {
      this.#node = said.connected;
      this.#session = said.connected.session;
    } else if (said.subscribed && said.id === SUBSCRIBE) this.#open(said.subscribed);
    else if (said.publication) this.#publication(said.publication, false);
    else if (said.join) this.#on.join(said.join.member);
    else if (said.leave) this.#on.leave(said.leave.member);
    else if (said.gap) {
      this.#since = said.gap.position ?? this.#since;
      this.#on.gap(said.gap);
    } else if (said.backplane) this.#on.backplane(said.backplane.state);
    else if (said.disconnect) this.#farewell = said.disconnect;
    else if (said.history) for (const p of said.history.publications) this.#on.publication(p, true);
    else if (said.error) this.#refused(said);
    else if (said.unsubscribed) this.#abandon({ code: 1000, reason: said.unsubscribed.reason ?? "unsubscribed" });
  }

  #open(subscribed) {
    const fresh = this.#since === undefined;
    this.#opened = performance.now();
    const { client, node } = this.#node;
    const { members, total, recovered, publications = [] } = subscribed;
    this.#on.open({ client, node, members, total, recovered, missed: publications.length });
    for (const p of publications) this.#publication(p, true);
    this.#since = subscribed.position;
    // A newcomer sees at once where everybody is. A channel without history refuses, which is no harm.
    if (fresh && members) this.#send({ id: ++this.#lastId, history: { channel: this.#channel } });
  }

  #publication(publication, old) {
    // A live-only channel has no positions, and nothing to recover.
    if (publication.offset !== undefined) this.#since = { epoch: publication.epoch, offset: publication.offset };
    this.#on.publication(publication, old);
  }

  #refused({ id, error }) {
    if (id === CONNECT || id === SUBSCRIBE) {
      this.#farewell = { reconnect: error.retry === true, after_ms: error.after_ms };
      this.#abandon({ code: 1011, reason: error.message || error.code });
    } else if (id === undefined) {
      this.#quietUntil = performance.now() + (error.after_ms ?? 0);
      this.#on.refused(error);
    }
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

  #lose(code, reason) {
    const lived = this.#opened === undefined ? 0 : performance.now() - this.#opened;
    const farewell = this.#farewell;
    this.#drop();
    const comesBack = mayComeBack(code) && farewell?.reconnect !== false;
    this.#on.lost({ code, reason: farewell?.reason || reason, comesBack });
    if (!comesBack) return;
    this.#attempt = lived > SETTLED_MS ? 0 : this.#attempt + 1;
    // The node's own moment first, then full jitter, so that a thousand pages do not come back together.
    const spread = Math.min(BACKOFF_CAP_MS, BACKOFF_MS * 2 ** this.#attempt);
    this.#retry = setTimeout(() => this.start(), (farewell?.after_ms ?? 0) + Math.random() * spread);
  }

  #drop() {
    clearInterval(this.#beat);
    clearTimeout(this.#retry);
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = this.#opened = undefined;
  }
}

// 1000 means that both have said what they wanted; 4500-4999 that coming back would not help.
export function mayComeBack(code) {
  return code !== 1000 && !(code >= 4500 && code <= 4999);
}
