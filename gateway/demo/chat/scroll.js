// Keeps the newest message in view for whoever looks at the end, and leaves alone whoever reads further up.

const NEAR = 48; // pixels from the end that still count as the end

export class Scroll {
  #box;
  #newer;
  #isAtEnd = true;

  constructor(box, newer) {
    this.#box = box;
    this.#newer = newer;
    newer.onclick = () => this.toEnd();
    box.onscroll = () => this.#look();
    // A keyboard that opens on a phone must not hide what was in view.
    new ResizeObserver(() => this.#isAtEnd && this.toEnd()).observe(box);
  }

  keep(change, isNews = false) {
    const changed = change();
    if (this.#isAtEnd) this.toEnd();
    else if (isNews) this.#newer.hidden = false;
    return changed;
  }

  toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#look();
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    if (this.#isAtEnd) this.#newer.hidden = true;
  }
}
