// The other visitors' cursors, one element each.

import { ink } from "./names.js";

const SILENT_MS = 15_000; // a cursor that says nothing for so long is taken away
const IDLE_MS = 4_000; // one that does not move steps back a little
const MOST = 200; // elements; a crowd larger than this is no longer read anyway

export class Cursors {
  #sky;
  #template;
  #shown = new Map(); // client -> { element, tag, x, y, heard, moved }

  constructor(sky, template) {
    this.#sky = sky;
    this.#template = template;
    addEventListener("resize", () => this.#shown.forEach((cursor) => this.#place(cursor)));
  }

  // left and top are exactly what was published; whatever else is done to be seen is done beside them.
  show(client, { x, y, name, color }) {
    const now = performance.now();
    const cursor = this.#shown.get(client) ?? this.#create(client, now);
    if (!cursor) return;
    cursor.heard = now;
    cursor.tag.textContent = name;
    if (cursor.x !== x || cursor.y !== y) {
      Object.assign(cursor, { x, y, moved: now });
      cursor.element.style.left = `${x}px`;
      cursor.element.style.top = `${y}px`;
      cursor.element.classList.remove("idle");
      this.#place(cursor);
    }
    cursor.element.style.setProperty("--color", color);
    cursor.element.style.setProperty("--ink", ink(color));
  }

  remove(client) {
    this.#shown.get(client)?.element.remove();
    this.#shown.delete(client);
  }

  // After a reconnect: whoever left in between is gone.
  keepOnly(isHere) {
    for (const client of this.#shown.keys()) if (!isHere(client)) this.remove(client);
  }

  sweep() {
    const now = performance.now();
    for (const [client, cursor] of this.#shown) {
      if (now - cursor.heard > SILENT_MS) this.remove(client);
      else cursor.element.classList.toggle("idle", now - cursor.moved > IDLE_MS);
    }
  }

  #create(client, now) {
    if (this.#shown.size >= MOST) return undefined;
    const element = this.#template.content.firstElementChild.cloneNode(true);
    element.dataset.client = client;
    this.#sky.append(element);
    const cursor = { element, tag: element.querySelector(".tag"), heard: now, moved: now };
    this.#shown.set(client, cursor);
    return cursor;
  }

  // Others have larger screens: a cursor beyond ours waits at the edge. A name near the edge turns inwards.
  #place({ element, tag, x, y }) {
    const { clientWidth: width, clientHeight: height } = this.#sky;
    const dx = Math.min(Math.max(x, 0), width) - x;
    const dy = Math.min(Math.max(y, 0), height) - y;
    element.style.translate = dx || dy ? `${dx}px ${dy}px` : "";
    element.classList.toggle("beyond", dx !== 0 || dy !== 0);
    element.classList.toggle("turn-x", x + dx > width - tag.offsetWidth - 20);
    element.classList.toggle("turn-y", y + dy > height - 56);
  }
}
