// Who is here. With presence the node knows exactly; without it whoever publishes is here until silent for a while.

import { profile } from "./names.js";

const SILENT_MS = 15_000;

export class Roster {
  #members = new Map(); // client -> { name, color, heard }
  #unlisted = 0; // a list holds at most 1,000
  #exact = false;

  reset(self, me, members, total = 0) {
    this.#exact = members !== undefined;
    if (this.#exact) {
      this.#members = new Map(members.map(({ client, info }) => [client, profile(client, info)]));
    }
    // Of others nothing was said: whoever was here before the cut gets as long as anybody to be heard again.
    for (const member of this.#members.values()) member.heard = performance.now();
    this.#members.set(self, { ...me, self: true });
    // Whoever is not on the list is among the rest, this visitor too.
    if (this.#exact) this.#unlisted = Math.max(0, total - this.#members.size);
  }

  get exact() {
    return this.#exact;
  }

  get size() {
    return this.#members.size + this.#unlisted;
  }

  has(client) {
    return this.#members.has(client);
  }

  list() {
    return [...this.#members.values()];
  }

  // The member, if that is news.
  join({ client, info }) {
    if (this.#members.has(client)) return undefined;
    const member = profile(client, info);
    this.#members.set(client, member);
    return member;
  }

  leave({ client }) {
    const member = this.#members.get(client);
    if (member?.self) return undefined;
    if (!this.#members.delete(client)) this.#unlisted = Math.max(0, this.#unlisted - 1);
    return member;
  }

  // A publication tells the newest name, and without presence that somebody is here. Returns whether the list changed.
  heard(client, said) {
    const member = this.#members.get(client) ?? (this.#exact ? undefined : {});
    if (!member) return false;
    const { name, color } = profile(client, said);
    const changed = member.name !== name || member.color !== color;
    this.#members.set(client, Object.assign(member, { name, color, heard: performance.now() }));
    return changed;
  }

  // Without presence: those who fell silent, taken off the list.
  sweep() {
    if (this.#exact) return [];
    const silent = [...this.#members].filter(([, m]) => !m.self && performance.now() - m.heard > SILENT_MS);
    for (const [client] of silent) this.#members.delete(client);
    return silent.map(([, member]) => member);
  }
}
