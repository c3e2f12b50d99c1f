// One message on the page. Whatever strangers wrote gets there as text and never as markup.

import { profile } from "../names.js";

const SHOWN = 4_000; // characters; a publication may be longer than anybody wants to read

const STATES = {
  sending: "sending…",
  waiting: "waiting, will be sent",
  sent: "✓ sent",
  failed: "not sent",
};

export class Message {
  element;
  author; // messages of one author in a row share its name
  key; // an own one's
  #state;

  constructor(template, { author, name, color, text, at, key, own }) {
    this.author = author;
    this.key = key;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.style.setProperty("--color", color);
    this.element.classList.toggle("own", own);
    this.#part("author").textContent = name;
    this.#part("text").textContent = text;
    this.#clock(at);
  }

  set onresend(act) {
    this.#part("resend").onclick = act;
  }

  set ondiscard(act) {
    this.#part("discard").onclick = act;
  }

  get state() {
    return this.#state;
  }

  // Of an own message: sending, waiting, sent or failed.
  become(state, why) {
    this.#state = this.element.dataset.state = state;
    this.#part("state").textContent = why ? `${STATES[state]}: ${why}` : STATES[state];
    this.#part("retry").hidden = state !== "failed";
  }

  place({ offset }) {
    this.element.dataset.offset = offset;
    this.#part("offset").textContent = `#${offset}`;
  }

  markRecovered() {
    this.element.classList.add("recovered");
    this.#part("mark").hidden = false;
  }

  // The author's clock, for the node does not tell its own.
  #clock(at) {
    const time = this.#part("time");
    const date = new Date(at);
    if (at === undefined || Number.isNaN(date.getTime())) return time.remove();
    time.dateTime = date.toISOString();
    time.textContent = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    time.title = date.toLocaleString();
  }

  #part(name) {
    return this.element.querySelector(name === "time" ? name : `.${name}`);
  }
}

// What a publication says, whoever published it: this page, another client, or a back end that writes `{"text":"hello"}`.
export function read({ client, user, data, data_base64 }) {
  const said = typeof data === "object" && data !== null ? data : {};
  const text = [said.text, data].find((one) => typeof one === "string") ?? (data === undefined ? data_base64 : JSON.stringify(data));
  const by = client ?? (typeof said.name === "string" ? said.name : undefined);
  const { name, color } = by ? profile(by, said) : { name: user ?? "Server", color: "#475569" };
  return {
    author: `${client ?? ""} ${name}`,
    name,
    color,
    text: text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text,
    at: Number.isFinite(said.at) ? said.at : undefined,
    key: typeof said.key === "string" ? said.key : undefined,
  };
}
