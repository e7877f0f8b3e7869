/** Setting of one pane: pruners, budgets, wire format, fit of the image. */

import { element } from "./dom.js";
import { PrunerChoice } from "./pruner_choice.js";

const WIRE_FORMATS = ["float32", "float16", "bfloat16", "int8", "int4", "entropy", "basis"];

/** Controls of one setting. */
export class Setting {
  /**
   * @param {object} catalog object of `/v1/pruners`
   * @param {string} preset name of the pruner at the start
   */
  constructor(catalog, preset) {
    const [encoder, llm] = ["encoder", "llm"].map((side) => catalog.pruners.filter((pruner) => pruner.side === side));
    const share = catalog.default_keep_ratio;
    this.pruner = new PrunerChoice("Pruner", encoder, preset, share);
    this.llmPruner = new PrunerChoice("Second pruner, in the language model", [{ name: "" }, ...llm], "", 0.5);
    this.wire = select("Wire format", ["", ...WIRE_FORMATS], `default (${catalog.default_wire_dtype})`);
    this.fit = select("Fit of the image", ["", "crop", "pad"], "default");
    this.nodes = [
      this.pruner.node,
      element(
        "details",
        { class: "more" },
        element("summary", { text: "Second pruner, wire format, fit" }),
        element("div", { class: "fields" }, this.llmPruner.node, this.wire, this.fit),
      ),
    ];
  }

  /** Fields of the request, by name. */
  get fields() {
    const fields = { pruner: this.pruner.name, ...this.pruner.budget.fields };
    if (Object.keys(this.pruner.parameters).length) fields.pruner_params = this.pruner.parameters;
    if (this.llmPruner.name) {
      const { name, parameters, budget } = this.llmPruner;
      fields.llm_pruner = { name, ...budget.fields, ...(Object.keys(parameters).length && { params: parameters }) };
    }
    if (chosen(this.wire)) fields.wire_dtype = chosen(this.wire);
    if (chosen(this.fit)) fields.image_fit = chosen(this.fit);
    return fields;
  }

  /** Short description, as in "desap 11.1 %". */
  get title() {
    const { keep_ratio: share, keep_tokens: tokens = "" } = this.pruner.budget.fields;
    return `${this.pruner.name} ${share === undefined ? tokens : `${Number((share * 100).toPrecision(3))} %`}`.trim();
  }

  /** Visual tokens of the last answer before pruning; 0 if the budget does not apply to their sum. */
  set total(value) {
    this.pruner.budget.total = value;
  }
}

function select(name, values, preset) {
  const options = values.map((value) => element("option", { value, text: value || preset }));
  return element("label", {}, element("span", { class: "label", text: name }), element("select", {}, ...options));
}

const chosen = (label) => label.querySelector("select").value;
