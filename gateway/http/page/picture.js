/** Canvas of one pane: the image with its overlay, and the patch under pointer or cursor. */

import { draw } from "./drawing.js";
import { describePatch } from "./explanation.js";
import { layout, patchAt } from "./geometry.js";

const MAX_HEIGHT = 520;
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Picture. It dispatches `patch` when another patch is marked. */
export class Picture extends EventTarget {
  #canvas;
  #said;
  #layers;
  #scene = null;
  #patch = -1;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} said element that gets the description of the marked patch
   * @param {import("./layers.js").Layers} layers
   */
  constructor(canvas, said, layers) {
    super();
    [this.#canvas, this.#said, this.#layers] = [canvas, said, layers];
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#mark(-1));
    canvas.addEventListener("blur", () => this.#mark(-1));
    canvas.addEventListener("keydown", (event) => this.#move(event));
    layers.addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Patch that is marked; -1 for none. */
  get patch() {
    return this.#patch;
  }

  /**
   * Shows an image, with a patch grid or without.
   * @param {?ImageBitmap} bitmap image; null for none
   * @param {?import("./explanation.js").PatchGrid} grid
   */
  show(bitmap, grid) {
    this.#scene = bitmap ? { bitmap, grid } : null;
    this.#patch = -1;
    this.#said.textContent = "";
    this.#canvas.hidden = !bitmap;
    const name = grid
      ? `Image in ${grid.rows} rows and ${grid.columns} columns of patches, ${grid.numKept} tokens kept`
      : "Image";
    const help = grid ? `${name}. Arrow keys go from patch to patch.` : name;
    this.#canvas.setAttribute("aria-label", help);
    this.#draw();
  }

  /** Marks the same patch as another picture. */
  follow(patch) {
    const { rows = 0, columns = 0 } = this.#scene?.grid ?? {};
    if (patch < rows * columns && patch !== this.#patch) this.#set(patch);
  }

  #point(event) {
    if (!this.#scene?.grid) return;
    const { left, top } = this.#canvas.getBoundingClientRect();
    this.#mark(patchAt(this.#layout(), this.#scene.grid, event.clientX - left, event.clientY - top));
  }

  #move(event) {
    const grid = this.#scene?.grid;
    if (!grid || !(event.key in ARROWS || event.key === "Escape")) return;
    event.preventDefault();
    if (event.key === "Escape") {
      this.#mark(-1);
      return;
    }
    const [down, right] = ARROWS[event.key];
    const from = this.#patch < 0 ? 0 : this.#patch;
    const moved = this.#patch < 0 ? [0, 0] : [down, right];
    const row = Math.min(Math.max(Math.floor(from / grid.columns) + moved[0], 0), grid.rows - 1);
    const column = Math.min(Math.max((from % grid.columns) + moved[1], 0), grid.columns - 1);
    this.#mark(row * grid.columns + column);
  }

  #mark(patch) {
    if (patch === this.#patch) return;
    this.#set(patch);
    this.dispatchEvent(new Event("patch"));
  }

  #set(patch) {
    this.#patch = patch;
    this.#said.textContent = patch < 0 || !this.#scene?.grid ? "" : describePatch(this.#scene.grid, patch);
    this.#draw();
  }

  #layout() {
    const { bitmap, grid } = this.#scene;
    const viewed = grid?.hasImage ? grid.viewed : [0, 0, 1, 1];
    const size = grid && !grid.hasImage ? { width: grid.columns, height: grid.rows } : bitmap;
    return layout(size, viewed, this.#canvas.parentElement.clientWidth, MAX_HEIGHT);
  }

  #draw() {
    if (!this.#scene || !this.#canvas.parentElement.clientWidth) return;
    const { bitmap, grid } = this.#scene;
    const place = this.#layout();
    const dense = window.devicePixelRatio || 1;
    [this.#canvas.width, this.#canvas.height] = [place.width * dense, place.height * dense];
    this.#canvas.style.width = `${place.width}px`;
    this.#canvas.style.height = `${place.height}px`;
    const pen = this.#canvas.getContext("2d");
    pen.scale(dense, dense);
    const paper = getComputedStyle(this.#canvas).getPropertyValue("--panel");
    const source = grid && !grid.hasImage ? null : bitmap;
    draw(pen, { source, grid, layout: place }, this.#layers.opacity, this.#patch, paper);
  }
}
