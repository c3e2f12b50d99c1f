// Tells how many seconds are left, and when none is.

const TICK_MS = 200;

export class Countdown {
  #timer;

  start(ms, left, done) {
    this.stop();
    const end = performance.now() + ms;
    const tick = () => {
      const rest = end - performance.now();
      if (rest > 0) return left(Math.ceil(rest / 1_000));
      this.stop();
      done();
    };
    this.#timer = setInterval(tick, TICK_MS);
    tick();
  }

  stop() {
    clearInterval(this.#timer);
  }
}
