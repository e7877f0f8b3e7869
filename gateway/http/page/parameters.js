/** Parameters of a pruner, as fields with its defaults. */

import { element } from "./dom.js";

let lists = 0;

/** Fields of the parameters of one pruner. */
export class Parameters {
  #inputs = [];

  /** @param {{name: string, type: string, default: unknown, description: string}[]} specs */
  constructor(specs) {
    this.node = element("div", { class: "parameters" }, ...specs.map((spec) => this.#field(spec)));
  }

  /** Values that differ from the defaults, by name. */
  get values() {
    const entries = this.#inputs.map(({ spec, input }) => [spec, read(spec, input)]);
    return Object.fromEntries(
      entries.filter(([spec, value]) => value !== spec.default).map(([spec, value]) => [spec.name, value]),
    );
  }

  #field(spec) {
    const input = control(spec);
    this.#inputs.push({ spec, input });
    const label = element("label", {}, element("code", { text: spec.name }), input);
    const field = element(
      "div",
      { class: "parameter" },
      label,
      element("p", { class: "faint", text: spec.description }),
    );
    if (spec.type === "string") field.append(suggestions(spec, input));
    return field;
  }
}

function control(spec) {
  if (spec.type === "boolean") return element("input", { type: "checkbox", checked: spec.default === true });
  const isText = spec.type === "string";
  return element("input", {
    type: isText ? "text" : "number",
    ...(isText ? {} : { step: spec.type === "integer" ? "1" : "any" }),
    placeholder: String(spec.default),
    autocomplete: "off",
  });
}

/** Values of a text that the description names first, as in "words, all or none; ...". The field takes others too. */
function suggestions(spec, input) {
  const list = element("datalist", { id: `values-${++lists}` });
  const words = spec.description.split(";")[0].split(/, | or /);
  if (words.every((word) => /^\w+$/.test(word)))
    list.append(...words.map((word) => element("option", { value: word })));
  input.setAttribute("list", list.id);
  return list;
}

function read(spec, input) {
  if (spec.type === "boolean") return input.checked;
  if (input.value === "") return spec.default;
  return spec.type === "string" ? input.value : Number(input.value);
}
