/** Budget of a pruner: a slider over the share of the visual tokens. */

import { element } from "./dom.js";

const LOWEST = 0.01;
const STEPS = 48;

/**
 * Shares that the slider stops at: evenly spaced on a logarithmic scale, since the low ones matter most.
 * @param {number} preset a share that must be among them
 */
export function stops(preset) {
  const even = Array.from({ length: STEPS + 1 }, (_, step) => Number((LOWEST ** (1 - step / STEPS)).toPrecision(3)));
  return [...new Set([...even, preset])].sort((a, b) => a - b);
}

/** Tokens that a share keeps of `total`, by the rule of the API. */
export const tokensOf = (share, total) => Math.max(1, Math.floor(share * total + 0.5));

/** Slider of a share, and a checkbox for a budget that the pruner chooses. */
export class Budget {
  #stops;
  #preset;
  #total = 0;

  /**
   * @param {string} name label
   * @param {number} preset share at the start
   */
  constructor(name, preset) {
    this.#stops = stops(preset);
    this.#preset = this.#stops.indexOf(preset);
    this.slider = element("input", { type: "range", min: "0", max: String(this.#stops.length - 1), step: "1" });
    this.slider.value = String(this.#preset);
    this.said = element("output", { class: "number" });
    this.auto = element("input", { type: "checkbox" });
    this.choice = element(
      "label",
      { class: "check", hidden: true, title: "The pruner chooses the budget" },
      this.auto,
      " auto",
      element("span", { class: "hidden", text: " (chosen by the pruner)" }),
    );
    this.node = element(
      "div",
      { class: "budget" },
      element("label", {}, element("span", { class: "label", text: name }), this.slider),
      this.said,
      this.choice,
    );
    this.node.addEventListener("input", () => this.#say());
    this.#say();
  }

  /** Fields of the request: `keep_ratio`, or `keep_tokens` "auto"; none if the pruner takes no budget. */
  get fields() {
    if (this.node.classList.contains("ignored")) return {};
    return this.#isAuto ? { keep_tokens: "auto" } : { keep_ratio: this.#share };
  }

  /** Shows the choice of the budget if the pruner has it. */
  set canChoose(value) {
    this.choice.hidden = !value;
    this.#say();
  }

  /** Hides the budget, but for its space, if the pruner takes none. */
  set isIgnored(value) {
    this.node.classList.toggle("ignored", value);
  }

  /** Visual tokens of the last answer before pruning; 0 for unknown. */
  set total(value) {
    this.#total = value;
    this.#say();
  }

  get #share() {
    return this.#stops[Number(this.slider.value)];
  }

  get #isAuto() {
    return !this.choice.hidden && this.auto.checked;
  }

  #say() {
    const percent = `${Number((this.#share * 100).toPrecision(3))} %`;
    const tokens = this.#total ? ` · ${tokensOf(this.#share, this.#total)} of ${this.#total} tokens` : "";
    const text = this.#isAuto ? "chosen by the pruner" : percent + tokens;
    this.slider.disabled = this.#isAuto;
    this.slider.setAttribute("aria-valuetext", text);
    this.said.textContent = text;
  }
}
