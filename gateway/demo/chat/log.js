// The messages, in the order of the channel, and between them notes about what happened. A place is taken once.

const MOST = 500; // messages and notes kept on the page

export class Log {
  #list;
  #entries = []; // { element, message?, place? }, as they stand on the page
  #places = new Map(); // "epoch:offset" -> entry

  constructor(list) {
    this.#list = list;
  }

  has(place) {
    return place !== undefined && this.#places.has(nameOf(place));
  }

  // Without a place, on a channel that is live only, it goes to the end.
  add(message, place) {
    if (this.has(place)) return;
    const entry = { element: message.element, message, place };
    if (place) {
      message.place(place);
      this.#places.set(nameOf(place), entry);
    }
    this.#insert(entry, this.#where(place));
  }

  // Something that nobody said. Returns its element: more may become known.
  note(text, kind = "") {
    const element = document.createElement("li");
    element.className = `event ${kind}`;
    element.textContent = text;
    this.#insert({ element }, this.#entries.length);
    return element;
  }

  get isEmpty() {
    return this.#entries.length === 0;
  }

  // Behind all that are not later. Usually that is the end; an answer from history or to an own message may come late.
  #where(place) {
    let at = this.#entries.length;
    for (let i = at - 1; place && i >= 0; i--) {
      const other = this.#entries[i].place;
      if (!other) continue;
      if (other.epoch !== place.epoch || other.offset < place.offset) break;
      at = i;
    }
    return at;
  }

  #insert(entry, at) {
    this.#list.insertBefore(entry.element, this.#entries[at]?.element ?? null);
    this.#entries.splice(at, 0, entry);
    this.#join(at);
    this.#join(at + 1);
    if (this.#entries.length > MOST) this.#forgetFirst();
  }

  // One name over several messages of one author.
  #join(at) {
    const message = this.#entries[at]?.message;
    message?.element.classList.toggle("follows", message.author === this.#entries[at - 1]?.message?.author);
  }

  #forgetFirst() {
    const { element, place } = this.#entries.shift();
    element.remove();
    if (place) this.#places.delete(nameOf(place));
    this.#join(0);
  }
}

function nameOf({ epoch, offset }) {
  return `${epoch}:${offset}`;
}
