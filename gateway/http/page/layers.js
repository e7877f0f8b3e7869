/** Layers of the overlay: switches and opacities that all panes share. */

import { element } from "./dom.js";

const LAYERS = [
  { name: "patches", label: "Patches", shown: true, opacity: 100 },
  { name: "task", label: "Task map", shown: false, opacity: 75 },
  { name: "saliency", label: "Saliency map", shown: false, opacity: 75 },
];

/** Controls of the layers. It dispatches `change`. */
export class Layers extends EventTarget {
  #controls = {};

  /** @param {Element} place element that gets the controls */
  constructor(place) {
    super();
    for (const layer of LAYERS) place.append(this.#row(layer));
    place.addEventListener("input", () => this.dispatchEvent(new Event("change")));
  }

  /** Opacity of each layer, 0 to 1; 0 for one that is not shown. */
  get opacity() {
    const entries = Object.entries(this.#controls);
    return Object.fromEntries(
      entries.map(([name, { shown, slider }]) => [name, shown.checked ? slider.value / 100 : 0]),
    );
  }

  #row({ name, label, shown, opacity }) {
    const box = element("input", { type: "checkbox", checked: shown });
    const slider = element("input", {
      type: "range",
      min: "0",
      max: "100",
      step: "5",
      "aria-label": `Opacity of ${label.toLowerCase()}`,
    });
    slider.value = String(opacity);
    const said = element("output", { class: "number", text: `${opacity} %` });
    slider.addEventListener("input", () => {
      box.checked = slider.value !== "0";
      said.textContent = `${slider.value} %`;
    });
    this.#controls[name] = { shown: box, slider };
    return element(
      "div",
      { class: `layer layer-${name}` },
      element("label", { class: "check" }, box, ` ${label}`),
      slider,
      said,
    );
  }
}
