// Who a visitor is, without typing anything; and what strangers say about themselves, made safe to show.

const FIRST = ["Amber", "Breezy", "Bright", "Brisk", "Calm", "Clever", "Cosmic", "Crimson", "Dapper", "Daring", "Gentle", "Golden",
  "Happy", "Hazel", "Jolly", "Lucky", "Lunar", "Mellow", "Misty", "Nimble", "Polar", "Quiet", "Rapid", "Silver", "Sunny", "Velvet"];
const SECOND = ["Albatross", "Badger", "Bee", "Comet", "Crane", "Dolphin", "Falcon", "Fox", "Gecko", "Heron", "Ibis", "Jay", "Kestrel",
  "Lark", "Lynx", "Marten", "Moth", "Orca", "Osprey", "Otter", "Owl", "Petrel", "Puffin", "Robin", "Swift", "Wren"];

// Each carries white text at a contrast of 4.5 or more, and is seen on a light and on a dark stage.
const COLORS = ["#d6336c", "#be123c", "#c2410c", "#a16207", "#4d7c0f", "#15803d", "#0f766e", "#0369a1", "#1d4ed8", "#6d28d9", "#a21caf", "#9d4b2b"];

export const NAME_LENGTH = 24;

// Kept for this tab only: two windows of one person are two visitors, a reload is the same one.
const KEY = "skywave.demo.me";

export function whoAmI() {
  let kept;
  try {
    kept = JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    // No storage, or not ours: a fresh name is as good.
  }
  const me = { name: cleanName(kept?.name) ?? invent(Math.random), color: cleanColor(kept?.color) ?? pick(COLORS, Math.random()) };
  keep(me);
  return me;
}

export function keep(me) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(me));
  } catch {
    // A private window without storage works all the same.
  }
}

// What a publication or a member's info says, with something sensible where it says nothing usable.
export function profile(client, said) {
  let seed = 0;
  for (const c of client) seed = (seed * 31 + c.codePointAt(0)) >>> 0;
  const roll = () => ((seed = (seed * 1664525 + 1013904223) >>> 0) / 2 ** 32);
  return { name: cleanName(said?.name) ?? invent(roll), color: cleanColor(said?.color) ?? pick(COLORS, roll()) };
}

export function cleanName(name) {
  if (typeof name !== "string") return undefined;
  // Control and direction characters of one name would disturb the text around it.
  const clean = name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "").trim();
  return [...clean].slice(0, NAME_LENGTH).join("").trim() || undefined;
}

// Black or white, whichever is read better on this colour (WCAG relative luminance).
export function ink(color) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const c = parseInt(color.slice(at, at + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
}

function cleanColor(color) {
  return typeof color === "string" && /^#[0-9a-f]{6}$/i.test(color) ? color : undefined;
}

function invent(roll) {
  return `${pick(FIRST, roll())} ${pick(SECOND, roll())}`;
}

function pick(list, at) {
  return list[Math.floor(at * list.length)];
}
