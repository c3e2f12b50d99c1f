// How late things are, told honestly: the way there and back is measured by one clock, this machine's; how late the
// others' cursors arrive takes two clocks, and is wrong by as much as those differ.

const KEPT = 64; // own publications on their way
const WEIGHT = 0.15; // of the newest measurement in the smoothed value
const SUSPECT_MS = 1_000; // nobody on a working network is that late: the clocks differ

export class Lateness {
  #sent = new Map(); // number of an own publication -> when it went
  #number = 0;
  #trip;
  #others;

  // What a publication carries.
  stamp() {
    this.#sent.set(++this.#number, performance.now());
    if (this.#sent.size > KEPT) this.#sent.delete(this.#sent.keys().next().value);
    return { n: this.#number, t: Date.now() };
  }

  cameBack({ n }) {
    const sent = this.#sent.get(n);
    if (sent === undefined) return;
    this.#sent.delete(n);
    this.#trip = smooth(this.#trip, performance.now() - sent);
  }

  arrived({ t }) {
    if (Number.isFinite(t)) this.#others = smooth(this.#others, Date.now() - t);
  }

  // What was on its way is lost or comes late, and says nothing about the connection now.
  forget() {
    this.#sent.clear();
    this.#trip = this.#others = undefined;
  }

  get trip() {
    return this.#trip;
  }

  get others() {
    return this.#others;
  }

  get clocksDiffer() {
    return this.#others !== undefined && (this.#others < -5 || this.#others > SUSPECT_MS + (this.#trip ?? 0));
  }
}

function smooth(before, now) {
  return before === undefined ? now : before + WEIGHT * (now - before);
}
