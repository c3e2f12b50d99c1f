// The cursor-sharing page: everybody who has it open sees everybody's pointer. This module joins the parts and writes
// the texts; body[data-open], [data-node] and [data-members] say the same to a script.

import { Connection } from "./connection.js";
import { Cursors } from "./cursors.js";
import { Lateness } from "./lateness.js";
import { cleanName, keep, profile, whoAmI } from "./names.js";
import { Pointer } from "./pointer.js";
import { Roster } from "./roster.js";
import { Trails } from "./trails.js";

const NAMES_SHOWN = 24;
const FEED_LINES = 3;
const FEED_MS = 6_000;

const $ = (id) => document.getElementById(id);
const { body } = document;
const me = whoAmI();
let self; // our client id

const roster = new Roster();
const lateness = new Lateness();
const cursors = new Cursors($("sky"), $("cursor"));
const trails = new Trails($("trails"));
const url = new URL("../ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection({
  url,
  channel: "cursors",
  info: () => me,
  on: { open, lost, publication, join, leave, gap, backplane, refused },
});
const pointer = new Pointer(connection, $("stage"), () => ({ ...me, ...lateness.stamp() }));

function open({ client, node, members, total, recovered, missed }) {
  self = client;
  roster.reset(client, me, members, total);
  cursors.keepOnly((other) => other !== client && (!roster.exact || roster.has(other)));
  lateness.forget();
  body.dataset.open = "1";
  body.dataset.node = $("node").textContent = node;
  status("open", node);
  if (recovered) tell(missed ? `Back, and given ${count(missed, "missed move")}` : "Back, and nothing was missed");
  else if (recovered === false) tell("Back, but too much was missed: starting over");
  showPeople();
  pointer.announce();
}

function lost({ code, reason, comesBack }) {
  delete body.dataset.open;
  if (comesBack) return status("waiting", reason ? `Reconnecting (${reason})…` : "Reconnecting…");
  status("ended", `Disconnected: ${reason || code}`);
  const again = document.createElement("button");
  again.textContent = "Connect again";
  again.onclick = start;
  $("status").append(again);
}

function start() {
  status("connecting", "Connecting…");
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
  if (state === "ok") status("open", body.dataset.node);
  else status("degraded", `${body.dataset.node} has lost sight of the other nodes`);
}

function refused({ code, message }) {
  tell(`Not published: ${message || code}`);
}

// --- what is shown ---

function status(state, text) {
  $("status").dataset.state = state;
  $("status").querySelector("button")?.remove();
  $("status-text").textContent = text;
  $("status-open").hidden = state !== "open";
}

function tell(text) {
  const line = document.createElement("li");
  line.textContent = text;
  $("feed").append(line);
  while ($("feed").children.length > FEED_LINES) $("feed").firstChild.remove();
  setTimeout(() => line.remove(), FEED_MS);
}

function showPeople() {
  body.dataset.members = roster.size;
  $("count").textContent = roster.size;
  const others = roster.list().filter((member) => !member.self);
  const rows = others.slice(0, NAMES_SHOWN).map(({ name, color }) => {
    const row = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = color;
    row.append(swatch, name);
    return row;
  });
  const more = roster.size - 1 - rows.length;
  if (more > 0) {
    rows.push(document.createElement("li"));
    rows.at(-1).textContent = `and ${more} more`;
  }
  $("people").replaceChildren($("people").firstElementChild, ...rows);
}

function showMe() {
  $("my-name").textContent = me.name;
  body.style.setProperty("--me", me.color);
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

function rename(editing) {
  $("rename").hidden = editing;
  $("name-form").hidden = !editing;
  if (!editing) return $("rename").focus();
  $("name").value = me.name;
  $("name").select();
}

$("rename").onclick = () => rename(true);
$("name").onkeydown = ({ key }) => {
  if (key === "Escape") rename(false);
};
$("name-form").onsubmit = (event) => {
  event.preventDefault();
  me.name = cleanName($("name").value) ?? me.name;
  keep(me);
  showMe();
  rename(false);
  pointer.announce();
};

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

showMe();
start();
