/** Choice of a pruner, with its budget and its parameters. */

import { Budget } from "./budget.js";
import { element } from "./dom.js";
import { Parameters } from "./parameters.js";

/** Pruner that keeps every token. A request that gives it a budget is refused. */
const KEEPS_ALL = "none";

/** A list of pruners. */
export class PrunerChoice {
  #pruners;
  #parameters = new Parameters([]);

  /**
   * @param {string} name label
   * @param {object[]} pruners entries of `/v1/pruners`; one without a name stands for no pruner
   * @param {string} preset name of the pruner at the start
   * @param {number} share budget at the start
   */
  constructor(name, pruners, preset, share) {
    this.#pruners = new Map(pruners.map((pruner) => [pruner.name, pruner]));
    this.select = element(
      "select",
      {},
      ...pruners.map(({ name }) => element("option", { value: name, text: name || "none" })),
    );
    this.select.value = preset;
    this.budget = new Budget("Budget", share);
    this.summary = element("p", { class: "faint" });
    this.details = element("details", {});
    this.node = element(
      "div",
      { class: "pruner" },
      element("label", {}, element("span", { class: "label", text: name }), this.select),
      this.budget.node,
      this.details,
    );
    this.select.addEventListener("input", () => this.#show());
    this.#show();
  }

  /** Name of the pruner; empty for none. */
  get name() {
    return this.select.value;
  }

  /** Values of the parameters that differ from the defaults. */
  get parameters() {
    return this.#parameters.values;
  }

  #show() {
    const pruner = this.#pruners.get(this.name);
    const isNone = this.name === "";
    this.details.hidden = this.budget.node.hidden = isNone;
    this.budget.isIgnored = this.name === KEEPS_ALL;
    this.budget.canChoose = pruner.chooses_budget ?? false;
    this.#parameters = new Parameters(pruner.parameters ?? []);
    const count = pruner.parameters?.length ?? 0;
    const reference = pruner.reference ? ` (${pruner.reference})` : "";
    this.summary.textContent = isNone ? "" : pruner.summary + reference;
    const title = count ? `${count} ${count > 1 ? "parameters" : "parameter"} of ${this.name}` : `About ${this.name}`;
    this.details.replaceChildren(element("summary", { text: title }), this.summary, this.#parameters.node);
  }
}
