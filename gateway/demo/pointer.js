// Publishes where this visitor's pointer is: the newest place once per animation frame, at most about 30 times a
// second. A place that could not be sent yet is replaced by the next one, never queued.

const APART_MS = 32; // two frames at 60 Hz
const KEEPALIVE_MS = 5_000;

export class Pointer {
  #connection;
  #said; // () => what goes into each publication besides the place
  #place = {}; // { x, y }, empty until the pointer was seen
  #tapped = false;
  #waiting = false;
  #sent = -Infinity;

  constructor(connection, stage, said) {
    this.#connection = connection;
    this.#said = said;
    addEventListener("pointermove", (event) => this.#at(event, stage));
    addEventListener("pointerdown", (event) => {
      this.#tapped = event.target === stage;
      this.#at(event, stage);
    });
    // Whoever sits still is still here, and where.
    setInterval(() => {
      if (!document.hidden && performance.now() - this.#sent >= KEEPALIVE_MS - 500) this.announce();
    }, KEEPALIVE_MS / 5);
  }

  // Says who and where without waiting for a move.
  announce() {
    if (this.#connection.isReady) this.#publish();
  }

  bye() {
    this.#connection.publish({ ...this.#said(), bye: true });
  }

  #at(event, stage) {
    // A second finger would make the cursor jump between the two.
    if (!event.isPrimary) return;
    const { left, top } = stage.getBoundingClientRect();
    this.#place = { x: Math.round(event.clientX - left), y: Math.round(event.clientY - top) };
    if (!this.#waiting) this.#wait();
  }

  #wait() {
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (!this.#connection.isOpen) return; // the next move, or the announcement after the return, says it
      if (this.#connection.isReady && performance.now() - this.#sent >= APART_MS) this.#publish();
      else this.#wait();
    });
  }

  #publish() {
    this.#sent = performance.now();
    const tap = this.#tapped || undefined;
    this.#tapped = false;
    this.#connection.publish({ ...this.#place, tap, ...this.#said() });
  }
}
