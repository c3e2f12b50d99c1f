// What a connection is given after a cut or a freeze: how much, from where to where, and whether any of it is missing.
// Counted here from what came, and not taken from what the node says about it. By the offset alone: behind a restart or a
// failover without loss the same line goes on under another epoch; and where it does not, the caller drops this.

export class Recovery {
  #after;
  #from; // the last position that was seen before
  #goal; // the offset up to which things were missed, as far as is known
  #isClosed = false; // what comes beyond the goal was not missed
  #first;
  #last;
  #count = 0;

  constructor(after, from) {
    this.#after = after;
    this.#from = from;
    this.#goal = this.#last = from.offset;
  }

  // The channel had come at least this far.
  reach(position) {
    if (position) this.#goal = Math.max(this.#goal, position.offset);
  }

  // Nothing else was missed. Until then everything that comes was.
  close() {
    this.#isClosed = true;
  }

  // Whether this publication is one of those that were missed. Each comes here once, in order.
  take({ offset }) {
    if (this.#isClosed && offset > this.#goal) return false;
    this.#first ??= offset;
    this.#last = offset;
    this.#count++;
    return true;
  }

  get isDone() {
    return this.#isClosed && this.#last >= this.#goal;
  }

  get report() {
    const missing = this.#last - this.#from.offset - this.#count;
    return { after: this.#after, from: this.#from, first: this.#first, last: this.#last, count: this.#count, missing };
  }
}
