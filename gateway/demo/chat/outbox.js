// What this visitor wrote and the node has not acknowledged: sent again, always with the same key, until it is.
//
// The node knows a key for five minutes. Whoever cannot say by then whether the message arrived does not send it again
// but asks the visitor, for the next attempt might double it. The same where the node does not know the visitor again: the
// keys were another client's.

const KEY_MS = 4.5 * 60_000;
const AGAIN_MS = 500; // doubled with each refusal in a row, up to the cap
const AGAIN_CAP_MS = 8_000;

export class Outbox {
  #publish; // (data, key, answered) => void
  #isReady;
  #sent; // (message, position) => void, once for each
  #letters = []; // { message, data, inFlight, tried, doubtful, foreign }, in the order of writing
  #refusals = 0;
  #retry;

  constructor({ publish, isReady, sent }) {
    this.#publish = publish;
    this.#isReady = isReady;
    this.#sent = sent;
  }

  add(message, data) {
    const letter = { message, data, inFlight: false };
    this.#letters.push(letter);
    message.onresend = () => this.#resend(letter);
    message.ondiscard = () => {
      this.#remove(letter);
      message.element.remove();
    };
    message.become("waiting");
    if (this.#isReady()) this.#send(letter);
  }

  // The node takes us for somebody else than before: what was tried under a key is not known under it any more.
  disown() {
    for (const letter of this.#letters) letter.foreign = letter.doubtful === true;
  }

  // Everything that waits, in its order. With `missedNothing` whatever has not been seen by now was never published.
  flush(missedNothing = false) {
    for (const letter of [...this.#letters]) {
      if (missedNothing && !letter.inFlight) letter.doubtful = false;
      if (letter.message.state === "waiting" && this.#isReady()) this.#send(letter);
    }
  }

  // The message that was published with this key: that is an acknowledgement too, and may be the first.
  take(key) {
    const letter = this.#letters.find(({ data }) => data.key === key);
    if (letter) this.#remove(letter);
    return letter?.message;
  }

  #send(letter) {
    if (letter.doubtful && (letter.foreign || performance.now() - letter.tried > KEY_MS)) {
      return letter.message.become("failed", "it may have arrived, nobody can say");
    }
    letter.tried = letter.doubtful ? letter.tried : performance.now();
    letter.inFlight = true;
    letter.message.become("sending");
    this.#publish(letter.data, letter.data.key, ({ published, error }) => {
      letter.inFlight = false;
      if (!this.#letters.includes(letter)) return; // it was seen on the channel first
      if (published) this.#acknowledged(letter, published.position);
      else this.#refused(letter, error);
    });
  }

  #acknowledged(letter, position) {
    this.#refusals = 0;
    this.#remove(letter);
    this.#sent(letter.message, position);
  }

  #refused(letter, { code, message, retry, after_ms = 0 }) {
    if (!retry) return letter.message.become("failed", message || code);
    letter.doubtful ||= code === "lost" || code === "unknown_outcome";
    letter.message.become("waiting");
    // After a loss the next connection flushes.
    if (code === "lost") return;
    const spread = Math.min(AGAIN_CAP_MS, AGAIN_MS * 2 ** this.#refusals++);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.flush(), Math.max(after_ms, spread * (0.5 + Math.random() / 2)));
  }

  #resend(letter) {
    letter.doubtful = false; // the visitor has decided
    letter.message.become("waiting");
    this.flush();
  }

  #remove(letter) {
    this.#letters = this.#letters.filter((other) => other !== letter);
  }
}
