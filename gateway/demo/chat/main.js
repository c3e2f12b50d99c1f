// The chat page: a room whose messages survive a broken connection, and two buttons to break it. This module joins the
// parts and writes the texts; body[data-open], [data-node], [data-members], [data-position] and [data-recovered] say the
// same to a script.

import { attempt, Connection } from "../connection.js";
import { whoAmI } from "../names.js";
import { People } from "../people.js";
import { Roster } from "../roster.js";
import { Status } from "../status.js";
import { Countdown } from "./countdown.js";
import { Log } from "./log.js";
import { Message, read } from "./message.js";
import { Outbox } from "./outbox.js";
import { Scroll } from "./scroll.js";

const CUT_MS = 3_000;
const FREEZE_MS = 5_000;
const PAGE = 1_000; // of history; the node gives 64 KiB at most
const ROOM_LENGTH = 40;

const $ = (id) => document.getElementById(id);
const { body } = document;
const me = whoAmI();
const room = roomIn(location.search);
const channel = `chat:${room}`;
const mine = new Set(); // our client ids: a session that was not taken back gives a new one
const placeless = new Set(); // keys of ours that were acknowledged without a position: the channel is live only
let self;
let isLoaded = false; // the history of the time before we came
let isSettled = false; // all that was missed has come: what waits may go out

const roster = new Roster();
const status = new Status($("status"), start);
const people = new People($("people"), $("count"), me, () => {});
const scroll = new Scroll($("scroll"), $("newer"));
const log = new Log($("log"));
const countdown = new Countdown();
const url = new URL("../../ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection({
  url,
  channel,
  info: () => me,
  on: { open, lost, recovered, publication, members, join, leave, gap, backplane, refused },
});
const outbox = new Outbox({
  publish: (data, key, answered) => connection.ask({ publish: { channel, data, key } }, answered),
  isReady: () => connection.isOpen && isSettled,
  sent: acknowledged,
});

// --- the connection ---

function open({ client, node, members: listed, total, recovered, isFirst }) {
  const isBack = mine.size > 0;
  if (isBack && client !== self) outbox.disown();
  self = client;
  mine.add(client);
  members({ members: listed, total });
  body.dataset.open = "1";
  body.dataset.node = $("node").textContent = node;
  countdown.stop();
  status.show("open", node);
  $("banner").hidden = true;
  buttons(true);
  if (recovered === false) return startOver("After the cut: the history does not reach back to where you were.");
  if (isBack && isFirst) note("This channel keeps no history: what was said meanwhile is lost.", "bad");
  if (!isLoaded) load(undefined, () => settle());
}

// Everything up to now has come.
function recovered({ after, first, last, from, count: n, missing }) {
  const what = n ? `recovered ${count(n, "message")} (offset ${first} to ${last})` : `nothing was published meanwhile (offset ${from.offset})`;
  const verdict = missing ? `${missing} missing` : "nothing missed";
  const text = n || missing ? `${what}, ${verdict}` : what;
  note(`After the ${after}: ${text}.`, missing ? "bad" : "good");
  Object.assign(body.dataset, { recovered: n, missing });
  $("recovery").textContent = `${after}: ${text}`;
  settle(missing === 0);
}

function gap({ reason, missed }, before) {
  const how = missed ? `skipped ${count(missed, "message")}` : "may have skipped messages";
  startOver(`The node ${how} here (${reason.replaceAll("_", " ")}).`, before);
}

// Says so, and shows what there is.
function startOver(text, before = connection.position) {
  isSettled = false;
  delete body.dataset.recovered;
  const told = note(text, "bad");
  load(before, (history) => {
    told.textContent = `${text} ${history ? reach(history, before) : "It could not be loaded."}`;
    $("recovery").textContent = "not possible: the history does not reach back";
    settle();
  });
}

// How much of what came after `before` the history has.
function reach({ publications: [first], position }, before) {
  if (!first) return "It is empty.";
  if (!before || before.epoch !== position?.epoch) return "It has begun anew: what was said in between is unknown.";
  const missing = first.offset - before.offset - 1;
  if (missing <= 0) return "Loaded again: nothing is missing.";
  return `Loaded again: ${count(missing, "message")} ${missing === 1 ? "is" : "are"} missing (offset ${before.offset + 1} to ${first.offset - 1}).`;
}

// The history after `since`, without one the newest of it, page by page, as far as it is not shown yet. A channel that is
// live only refuses. `loaded` gets the first page, or nothing.
function load(since, loaded, first) {
  $("log").ariaBusy = "true";
  connection.ask({ history: { channel, since, limit: since && PAGE } }, ({ history }) => {
    if (!history) return loaded();
    for (const p of history.publications) attempt(() => publication(p, false));
    const last = history.publications.at(-1);
    if (history.more && last) return load({ epoch: last.epoch, offset: last.offset }, loaded, first ?? history);
    isLoaded = true;
    loaded(first ?? history);
  });
}

function settle(missedNothing) {
  isSettled = connection.isOpen;
  $("log").ariaBusy = "false";
  $("empty").hidden = !log.isEmpty;
  showPosition();
  outbox.flush(missedNothing);
}

function lost({ code, reason, comesBack }) {
  delete body.dataset.open;
  isSettled = false;
  buttons(false);
  if (reason === "cut") return; // the countdown says it
  countdown.stop();
  if (comesBack) status.show("waiting", reason ? `Reconnecting (${reason})…` : "Reconnecting…");
  else status.show("ended", `Disconnected: ${reason || code}`);
}

function start() {
  status.show("connecting", "Connecting…");
  connection.start();
}

function backplane(state) {
  const ok = state === "ok";
  $("banner").hidden = ok;
  $("banner").textContent = ok ? "" : `${body.dataset.node} has lost sight of the other nodes. What you write waits until it is back.`;
  status.show(ok ? "open" : "degraded", body.dataset.node);
  if (ok) outbox.flush();
}

function refused({ code, message }) {
  note(`The node refused: ${message || code}`, "bad");
}

// --- people ---

function members({ members, total }) {
  roster.reset(self, me, members, total);
  showPeople();
}

function join(member) {
  const news = roster.join(member);
  if (news && isSettled) note(`${news.name} joined`);
  showPeople();
}

function leave(member) {
  const news = roster.leave(member);
  if (news && isSettled) note(`${news.name} left`);
  showPeople();
}

function showPeople() {
  body.dataset.members = roster.size;
  people.show(roster);
  if (!roster.exact) $("count").textContent = "–"; // this node does not know
}

// --- messages ---

function publication(published, missed) {
  const { client, offset, epoch } = published;
  const place = offset === undefined ? undefined : { epoch, offset };
  const said = read(published);
  // Our own comes back to us like everybody's: then it is acknowledged, whether the answer reached us or not.
  const sent = mine.has(client) && said.key ? outbox.take(said.key) : undefined;
  if (log.has(place) || placeless.delete(said.key)) return;
  const message = sent ?? new Message($("message"), { ...said, own: mine.has(client) });
  if (missed) message.markRecovered();
  if (roster.exact && client !== self && roster.heard(client, published.data)) showPeople();
  show(message, place);
}

function acknowledged(message, position) {
  if (log.has(position)) return message.element.remove(); // it stands there already, as somebody else's
  if (!position) placeless.add(message.key);
  show(message, position);
}

function show(message, place) {
  if (message.state) message.become("sent");
  scroll.keep(() => log.add(message, place), true);
  $("empty").hidden = true;
  showPosition();
}

// Something that nobody said.
function note(text, kind) {
  return scroll.keep(() => log.note(text, kind));
}

function showPosition() {
  const { epoch, offset } = connection.position ?? {};
  body.dataset.position = $("position").textContent = epoch ? `${epoch}:${offset}` : "–";
}

function write(text) {
  const data = { text, name: me.name, color: me.color, at: Date.now(), key: newKey() };
  const message = new Message($("message"), { ...read({ client: self ?? "me", data }), own: true });
  $("outbox").append(message.element);
  outbox.add(message, data);
  scroll.toEnd();
}

// --- what the visitor does ---

function cut() {
  connection.cut(CUT_MS);
  countdown.start(CUT_MS, (seconds) => status.show("waiting", `Cut: back in ${seconds} s`), () => status.show("waiting", "Reconnecting…"));
}

function freeze() {
  connection.freeze();
  buttons(false);
  body.dataset.frozen = "1";
  const show = (seconds) => status.show("frozen", `Frozen ${seconds} s, ${connection.held ?? 0} wait`);
  countdown.start(FREEZE_MS, show, thaw);
}

function thaw() {
  delete body.dataset.frozen;
  status.show("open", body.dataset.node);
  buttons(true);
  connection.thaw();
}

function buttons(enabled) {
  $("cut").disabled = $("freeze").disabled = !enabled;
  if (!enabled) delete body.dataset.frozen;
}

$("cut").onclick = cut;
$("freeze").onclick = freeze;
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  $("text").focus();
  if (text) write(text);
};
$("text").onkeydown = (event) => {
  // Enter sends; with Shift, or while a composed character is being chosen, it does not.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};

// A page in the back/forward cache may return; a closed one does not.
addEventListener("pagehide", () => {
  countdown.stop();
  connection.stop();
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) start();
});

function roomIn(query) {
  const asked = new URLSearchParams(query).get("room") ?? "";
  return [...asked.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "").trim()].slice(0, ROOM_LENGTH).join("").trim() || "lobby";
}

// Random enough to be nobody else's; crypto.randomUUID is not there on a page that came over http from afar.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

$("room").textContent = room;
$("channel").textContent = channel;
for (const element of document.querySelectorAll(".channel")) element.textContent = channel;
$("again").href = location.href;
document.title = `Chat ${room} · Skywave`;
start();
