// The cursor-sharing page: everybody who has it open sees everybody's pointer. This module joins the parts and writes
// the texts; body[data-open], [data-node] and [data-members] say the same to a script.
//
// It uses the JavaScript client; the chat page does without, on purpose.

import { Cursors } from "./cursors.js";
import { Lateness } from "./lateness.js";
import { profile, whoAmI } from "./names.js";
import { People } from "./people.js";
import { Pointer } from "./pointer.js";
import { Roster } from "./roster.js";
import { Client } from "./skywave.js";
import { Status } from "./status.js";
import { Trails } from "./trails.js";

const CHANNEL = "cursors";
const FEED_LINES = 3;
const FEED_MS = 6_000;

const $ = (id) => document.getElementById(id);
const { body } = document;
const me = whoAmI();
let self; // our client id

const roster = new Roster();
const status = new Status($("status"), start);
const people = new People($("people"), $("count"), me, () => pointer.announce());
const lateness = new Lateness();
const cursors = new Cursors($("sky"), $("cursor"));
const trails = new Trails($("trails"));
const client = new Client("../", { info: () => me });
let subscription;
let quietUntil = 0; // the node says how long, when it was too much
const pointer = new Pointer(
  {
    get isOpen() {
      return client.state === "connected";
    },
    get isReady() {
      return this.isOpen && client.bufferedAmount === 0 && performance.now() >= quietUntil;
    },
    // A place that cannot go now is worth nothing later.
    publish: (data) => client.offer(CHANNEL, data),
  },
  $("stage"),
  () => ({ ...me, ...lateness.stamp() }),
);

client.on("connected", ({ client, node }) => {
  self = client;
  body.dataset.node = $("node").textContent = node;
});
client.on("disconnected", ({ code, reason, reconnect }) => lost(reconnect, reason || code));
client.on("backplane", ({ state }) => backplane(state));
client.on("error", ({ message, afterMs }) => {
  quietUntil = performance.now() + afterMs;
  tell(`Not published: ${message}`);
});

// The subscription comes back with the connection. One that was refused or taken away does not.
function enter() {
  let missed;
  subscription = client.subscribe(CHANNEL, { presence: true });
  subscription.on("subscribed", ({ isFirst, recovered: isWhole }) => {
    missed = 0;
    open(isFirst);
    if (!isFirst && isWhole) queueMicrotask(() => recovered(missed)); // they follow at once
  });
  subscription.on("publication", (publication) => {
    if (publication.recovered) missed++;
    take(publication, publication.recovered);
  });
  subscription.on("members", members);
  subscription.on("join", join);
  subscription.on("leave", leave);
  subscription.on("gap", gap);
  subscription.on("unsubscribed", ({ reason, error }) => {
    client.close();
    lost(false, error?.message ?? reason);
  });
}

function open(isFirst) {
  members({}); // the list, if there is one, comes next
  lateness.forget();
  body.dataset.open = "1";
  status.show("open", body.dataset.node);
  // A newcomer sees at once where everybody is. A channel without history refuses, which is no harm.
  if (isFirst) client.history(CHANNEL).then(({ publications }) => roster.exact && publications.forEach((p) => take(p, true)), () => {});
  pointer.announce();
}

function recovered(missed) {
  tell(missed ? `Back, and given ${count(missed, "missed move")}` : "Back, and nothing was missed");
}

function members({ members, total }) {
  roster.reset(self, me, members, total);
  cursors.keepOnly((other) => other !== self && (!roster.exact || roster.has(other)));
  showPeople();
}

function lost(comesBack, why) {
  delete body.dataset.open;
  if (comesBack) status.show("waiting", why === 1006 ? "Reconnecting…" : `Reconnecting (${why})…`);
  else status.show("ended", `Disconnected: ${why}`);
}

function start() {
  status.show("connecting", "Connecting…");
  if (!subscription || subscription.state === "ended") enter();
  client.connect();
}

function take({ client, data }, old) {
  // Whoever may publish here may publish anything; what comes through the server API has no client.
  if (!client || typeof data !== "object" || data === null) return;
  const { x, y, tap, bye } = data;
  const placed = Number.isFinite(x) && Number.isFinite(y);
  if (client === self) {
    if (old) return;
    lateness.cameBack(data);
    if (placed) draw(client, x, y, me.color, tap);
    return;
  }
  if (bye) {
    cursors.remove(client);
    if (!roster.exact) leave({ client });
    return;
  }
  // What was published before we came may be of somebody who has left. (Without presence only recovery is old.)
  if (old && roster.exact && !roster.has(client)) return;
  const isNew = !roster.exact && !roster.has(client);
  if (roster.heard(client, data)) showPeople();
  // Without presence the newcomer does not know us either.
  if (isNew) setTimeout(() => pointer.announce(), Math.random() * 500);
  if (placed) {
    const { name, color } = profile(client, data);
    cursors.show(client, { x, y, name, color });
    if (!old) draw(client, x, y, color, tap);
  }
  if (!old) lateness.arrived(data);
}

function draw(client, x, y, color, tap) {
  trails.move(client, x, y, color);
  if (tap) trails.tap(x, y, color);
}

function join(member) {
  const news = roster.join(member);
  if (news) tell(`${news.name} joined`);
  showPeople();
}

function leave(member) {
  const news = roster.leave(member);
  if (news) tell(`${news.name} left`);
  if (member.client !== self) cursors.remove(member.client);
  showPeople();
}

function gap({ reason, missed }) {
  if (reason === "not_recovered") return tell("Back, but too much was missed: starting over");
  tell(`Skipped ${missed ? count(missed, "move") : "some moves"} (${reason.replaceAll("_", " ")})`);
}

function backplane(state) {
  if (state === "ok") status.show("open", body.dataset.node);
  else status.show("degraded", `${body.dataset.node} has lost sight of the other nodes`);
}

// --- what is shown ---

function tell(text) {
  const line = document.createElement("li");
  line.textContent = text;
  $("feed").append(line);
  while ($("feed").children.length > FEED_LINES) $("feed").firstChild.remove();
  setTimeout(() => line.remove(), FEED_MS);
}

function showPeople() {
  body.dataset.members = roster.size;
  people.show(roster);
}

function showLateness() {
  $("trip").textContent = milliseconds(lateness.trip);
  $("others").textContent = milliseconds(lateness.others);
  $("others").dataset.doubtful = lateness.clocksDiffer;
  $("others-note").textContent = lateness.clocksDiffer
    ? "Their clock and yours differ: do not believe this one."
    : "From their screen to yours. Two clocks: wrong by as much as they differ.";
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function milliseconds(value) {
  if (value === undefined) return "–";
  return `${value.toFixed(Math.abs(value) < 10 ? 1 : 0).replace("-", "−")} ms`;
}

// --- what the visitor does ---

// With a mouse a window of its own can stand beside this one; elsewhere the link opens a tab.
$("again").onclick = (event) => {
  if (!matchMedia("(pointer: fine)").matches) return;
  event.preventDefault();
  window.open(location.href, "_blank", "noopener,width=760,height=620");
};

setInterval(() => {
  cursors.sweep();
  showLateness();
  const silent = roster.sweep();
  for (const { name } of silent) tell(`${name} left`);
  if (silent.length) showPeople();
}, 1_000);

// A page in the back/forward cache may return; a closed one does not.
addEventListener("pagehide", () => {
  pointer.bye();
  client.close();
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) start();
});

start();
