// The pill in the header: how the connection is, and the way back when the page does not come back by itself.

export class Status {
  #pill;
  #again;

  constructor(pill, again) {
    this.#pill = pill;
    this.#again = again;
  }

  // `state` is one of open, connecting, waiting, degraded, frozen, ended.
  show(state, text) {
    this.#pill.dataset.state = state;
    this.#pill.querySelector("button")?.remove();
    this.#pill.querySelector("#status-text").textContent = text;
    this.#pill.querySelector("#status-open").hidden = state !== "open";
    if (state !== "ended") return;
    const button = document.createElement("button");
    button.textContent = "Connect again";
    button.onclick = this.#again;
    this.#pill.append(button);
  }
}
