// The cursor-sharing page: everybody who has it open sees everybody's pointer. This module joins the parts and writes
// the texts; body[data-open], [data-node] and [data-members] say the same to a script.

import { Connection } from "./connection.js";
import { Cursors } from "./cursors.js";
import { Lateness } from "./lateness.js";
import { profile, whoAmI } from "./names.js";
import { People } from "./people.js";
import { Pointer } from "./pointer.js";
import { Roster } from "./roster.js";
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
const url = new URL("../ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection({
  url,
  channel: CHANNEL,
  info: () => me,
  on: { open, lost, recovered, publication, members, join, leave, gap, backplane, refused },
});
const pointer = new Pointer(connection, $("stage"), () => ({ ...me, ...lateness.stamp() }));

function open({ client, node, members: listed, total, recovered, isFirst }) {
  self = client;
  members({ members: listed, total });
  lateness.forget();
  body.dataset.open = "1";
  body.dataset.node = $("node").textContent = node;
  status.show("open", node);
  if (recovered === false) tell("Back, but too much was missed: starting over");
  // A newcomer sees at once where everybody is. A channel without history refuses, which is no harm.
  if (isFirst && listed) {
    connection.ask({ history: { channel: CHANNEL } }, ({ history }) => history?.publications.forEach((p) => publication(p, true)));
  }
  pointer.announce();
}

function recovered({ count: missed }) {
  tell(missed ? `Back, and given ${count(missed, "missed move")}` : "Back, and nothing was missed");
}

function members({ members, total }) {
  roster.reset(self, me, members, total);
  cursors.keepOnly((other) => other !== self && (!roster.exact || roster.has(other)));
  showPeople();
}

function lost({ code, reason, comesBack }) {
  delete body.dataset.open;
  if (comesBack) status.show("waiting", reason ? `Reconnecting (${reason})…` : "Reconnecting…");
  else status.show("ended", `Disconnected: ${reason || code}`);
}

function start() {
  status.show("connecting", "Connecting…");
  connection.start();
}

function publication({ client, data }, old) {
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
  tell(`Skipped ${missed ? count(missed, "move") : "some moves"} (${reason.replaceAll("_", " ")})`);
}

function backplane(state) {
  if (state === "ok") status.show("open", body.dataset.node);
  else status.show("degraded", `${body.dataset.node} has lost sight of the other nodes`);
}

function refused({ code, message }) {
  tell(`Not published: ${message || code}`);
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
  connection.stop();
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) start();
});

start();
