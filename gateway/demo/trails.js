// Fading trails and ripples behind everybody's pointer, on one canvas. Only decoration: nothing here when the visitor
// asks for less motion, and no frame is drawn while nothing fades.

const TRAIL_MS = 550;
const BEHIND_MS = 70; // a cursor glides to its new place (cursors.css), and its trail must not run ahead
const APART_MS = 150; // a pointer that was still, or a finger that was lifted: no line from there to here
const RIPPLE_MS = 750;
const MOST_POINTS = 40; // for each visitor
const MOST_RIPPLES = 40;

export class Trails {
  #canvas;
  #pen;
  #trails = new Map(); // client -> { color, points: [{ x, y, at }] }; emptied as points fade
  #ripples = []; // { x, y, color, at }
  #running = false;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext("2d");
    addEventListener("resize", () => this.#fit());
    this.#fit();
  }

  move(client, x, y, color) {
    const trail = this.#trails.get(client) ?? { points: [] };
    const last = trail.points.at(-1);
    if (last?.x === x && last?.y === y) return;
    trail.color = color;
    trail.points.push({ x, y, at: performance.now() });
    if (trail.points.length > MOST_POINTS) trail.points.shift();
    this.#trails.set(client, trail);
    this.#wake();
  }

  tap(x, y, color) {
    this.#ripples.push({ x, y, color, at: performance.now() });
    if (this.#ripples.length > MOST_RIPPLES) this.#ripples.shift();
    this.#wake();
  }

  #wake() {
    if (this.#running || this.#still.matches) return;
    this.#running = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const now = performance.now();
    this.#pen.clearRect(0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
    for (const [client, { color, points }] of this.#trails) {
      while (points.length && now - points[0].at > TRAIL_MS) points.shift();
      if (points.length) this.#line(color, points, now);
      else this.#trails.delete(client);
    }
    this.#ripples = this.#ripples.filter((r) => now - r.at < RIPPLE_MS);
    for (const ripple of this.#ripples) this.#ring(ripple, (now - ripple.at) / RIPPLE_MS);
    this.#running = this.#trails.size > 0 || this.#ripples.length > 0;
    if (this.#running) requestAnimationFrame(() => this.#draw());
  }

  #line(color, points, now) {
    this.#pen.strokeStyle = color;
    for (let i = 1; i < points.length; i++) {
      const [from, to] = [points[i - 1], points[i]];
      if (now - to.at < BEHIND_MS) return;
      if (to.at - from.at > APART_MS) continue;
      const life = 1 - (now - to.at) / TRAIL_MS;
      this.#pen.globalAlpha = 0.6 * life;
      this.#pen.lineWidth = 1 + 5 * life;
      this.#pen.beginPath();
      this.#pen.moveTo(from.x, from.y);
      this.#pen.lineTo(to.x, to.y);
      this.#pen.stroke();
    }
  }

  #ring({ x, y, color }, age) {
    const eased = 1 - (1 - age) ** 3;
    this.#pen.globalAlpha = 0.75 * (1 - age);
    this.#pen.strokeStyle = color;
    for (const [radius, width] of [[44, 3], [26, 2]]) {
      this.#pen.lineWidth = width;
      this.#pen.beginPath();
      this.#pen.arc(x, y, 4 + radius * eased, 0, 2 * Math.PI);
      this.#pen.stroke();
    }
  }

  #fit() {
    const scale = Math.min(devicePixelRatio, 2);
    this.#canvas.width = this.#canvas.clientWidth * scale;
    this.#canvas.height = this.#canvas.clientHeight * scale;
    this.#pen.setTransform(scale, 0, 0, scale, 0, 0);
  }
}
