// The list of who is here, and at its head the visitor, who can change the name.

import { cleanName, keep } from "./names.js";

const NAMES_SHOWN = 24;

export class People {
  #list;
  #count;
  #me;
  #renamed;

  constructor(list, count, me, renamed) {
    this.#list = list;
    this.#count = count;
    this.#me = me;
    this.#renamed = renamed;
    this.#part("rename").onclick = () => this.#edit(true);
    this.#part("name").onkeydown = ({ key }) => {
      if (key === "Escape") this.#edit(false);
    };
    this.#part("name-form").onsubmit = (event) => {
      event.preventDefault();
      this.#rename(this.#part("name").value);
    };
    this.#showMe();
  }

  show(roster) {
    this.#count.textContent = roster.size;
    const others = roster.list().filter((member) => !member.self);
    const rows = others.slice(0, NAMES_SHOWN).map(({ name, color }) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = color;
      return row(swatch, name);
    });
    const more = roster.size - 1 - rows.length;
    if (more > 0) rows.push(row(`and ${more} more`));
    // The visitor's own row stays where it is: moved, it would lose the focus, and what is being typed.
    while (this.#list.children.length > 1) this.#list.lastElementChild.remove();
    this.#list.append(...rows);
  }

  #rename(name) {
    this.#me.name = cleanName(name) ?? this.#me.name;
    keep(this.#me);
    this.#showMe();
    this.#edit(false);
    this.#renamed();
  }

  #edit(editing) {
    this.#part("rename").hidden = editing;
    this.#part("name-form").hidden = !editing;
    if (!editing) return this.#part("rename").focus();
    this.#part("name").value = this.#me.name;
    this.#part("name").select();
  }

  #showMe() {
    this.#part("my-name").textContent = this.#me.name;
    document.body.style.setProperty("--me", this.#me.color);
  }

  #part(id) {
    return this.#list.querySelector(`#${id}`);
  }
}

function row(...content) {
  const row = document.createElement("li");
  row.append(...content);
  return row;
}
