/** Pane: one setting, the answer with it, and what it cost. */

import { answer } from "./api.js";
import { askForKey } from "./api_key.js";
import { byId, element } from "./dom.js";
import { patchGrids } from "./explanation.js";
import { showFailure } from "./failure.js";
import { legend } from "./legend.js";
import { meters } from "./meters.js";
import { Picture } from "./picture.js";
import { requestFields, requestForm } from "./request.js";
import { Setting } from "./setting.js";

/** Pane. It dispatches `setting` when its setting changes, and `state` when a request begins or ends. */
export class Pane extends EventTarget {
  #layers;
  #images;
  #parts = {};
  #request = null;
  #asked = [];
  #explain = null;
  #frame = 0;

  /**
   * @param {string} name name, as in "Setting A"
   * @param {object} catalog object of `/v1/pruners`
   * @param {string} preset name of the pruner at the start
   * @param {import("./images.js").Images} images
   * @param {import("./layers.js").Layers} layers
   */
  constructor(name, catalog, preset, images, layers) {
    super();
    [this.#images, this.#layers] = [images, layers];
    this.node = byId("pane").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.node.querySelector(selector);
    for (const kind of [
      "setting",
      "answer",
      "stale",
      "failure",
      "body",
      "frames",
      "hint",
      "legend",
      "meters",
      "picture",
    ]) {
      this.#parts[kind] = part(`.${kind}`);
    }
    this.node.setAttribute("aria-label", name);
    part(".pane-title").textContent = name;
    part("legend").textContent = name;
    this.setting = new Setting(catalog, preset);
    this.#parts.setting.append(...this.setting.nodes);
    this.#parts.setting.addEventListener("change", () => this.dispatchEvent(new Event("setting")));
    this.picture = new Picture(part(".picture > canvas"), part(".patch"), layers);
    layers.addEventListener("change", () => this.#showLegend());
    this.clear();
  }

  /** Whether a request is in progress. */
  get isAsking() {
    return this.#request !== null;
  }

  /** Whether the pane has an answer or an error. */
  get hasResult() {
    return Boolean(this.#parts.answer.textContent) || !this.#parts.failure.hidden;
  }

  /** Fields of the request, see `requestFields`. */
  fields(question, shared) {
    return requestFields(question, shared, this.setting.fields);
  }

  /** Removes the answer, since it is about other images. */
  clear() {
    this.stop();
    if (this.#request) this.#end();
    this.#explain = null;
    this.#asked = [...this.#images.items];
    this.#parts.answer.textContent = "";
    this.#parts.meters.replaceChildren();
    this.say("");
    showFailure(this.#parts.failure, null);
    this.#showFrames();
  }

  /** Says that the answer on screen is to another request than the one that the controls now have. */
  say(text) {
    this.#parts.stale.textContent = text;
  }

  /** Scrolls to the answer if it is not on the screen. */
  reveal() {
    const { bottom } = this.#parts.answer.getBoundingClientRect();
    if (bottom > innerHeight) this.#parts.answer.scrollIntoView({ block: "start" });
  }

  /** Ends the request in progress. */
  stop() {
    this.#request?.abort();
  }

  /** Asks. The request in progress is ended. */
  async ask(question, shared) {
    this.stop();
    const request = (this.#request = new AbortController());
    const isCurrent = () => this.#request === request;
    this.#begin();
    this.#asked = [...this.#images.items];
    try {
      const form = requestForm(this.#asked, this.fields(question, shared));
      const done = await answer(form, request.signal, (text) => isCurrent() && this.#parts.answer.append(text));
      if (isCurrent()) this.#show(done);
    } catch (error) {
      if (isCurrent()) this.#fail(error, () => this.ask(question, shared));
    }
    if (isCurrent()) this.#end();
  }

  #begin() {
    this.say("Asking …");
    this.node.classList.add("asking");
    this.#parts.answer.setAttribute("aria-busy", "true");
    this.#parts.answer.textContent = "";
    showFailure(this.#parts.failure, null);
    this.dispatchEvent(new Event("state"));
  }

  #end() {
    this.#request = null;
    this.node.classList.remove("asking");
    this.#parts.answer.setAttribute("aria-busy", "false");
    this.dispatchEvent(new Event("state"));
  }

  #show(done) {
    this.say("");
    // The events carry the text as it was decoded; the answer object has the whole.
    this.#parts.answer.textContent = done.answer || "(empty answer)";
    // A budget is of each image, and rounded for each tile: of several the page does not foretell the sum.
    this.setting.total = done.explain?.grid ? done.usage.visual_tokens_total : 0;
    this.#parts.meters.replaceChildren(
      ...meters(
        done,
        this.#asked.map(({ file }) => file),
      ),
    );
    this.#explain = done.explain ?? null;
    this.#showFrames();
  }

  #fail(error, retry) {
    if (error.name === "AbortError") {
      this.say("Stopped.");
      return;
    }
    this.say("");
    this.#explain = null;
    this.#parts.meters.replaceChildren();
    this.#showFrames();
    showFailure(this.#parts.failure, error, retry);
    if (error.status === 401) askForKey();
  }

  /** Shows the picture, and a choice of the patch grid where there are several. */
  #showFrames() {
    const grids = this.#explain ? patchGrids(this.#explain) : [];
    const { frames } = this.#parts;
    this.#frame = 0;
    frames.hidden = grids.length < 2;
    const select = element(
      "select",
      {},
      ...grids.map(({ name }, index) => element("option", { value: index, text: name })),
    );
    select.addEventListener("input", () => {
      this.#frame = Number(select.value);
      this.#showGrid(grids[this.#frame]);
    });
    frames.replaceChildren(element("label", {}, "Shown: ", select));
    this.#showGrid(grids[0] ?? null);
  }

  #showGrid(grid) {
    this.picture.show(this.#asked[grid?.image ?? 0]?.bitmap ?? null, grid);
    this.#parts.body.hidden = !this.#asked.length;
    this.#parts.hint.hidden = this.#asked.length > 0;
    this.#parts.picture.classList.toggle("explained", grid !== null);
    this.#showLegend();
  }

  #showLegend() {
    const grid = this.#explain && patchGrids(this.#explain)[this.#frame];
    this.#parts.legend.replaceChildren(...(grid ? legend(grid, this.#explain.pruner, this.#layers.opacity) : []));
  }
}
