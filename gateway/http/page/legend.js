/** Legend of a picture: what the shown layers mean, with the range of each map. */

import { element } from "./dom.js";
import { MAP_COLORS, levelColor, range } from "./palette.js";

const STEPS = 32;
const MAPS = { task: "task map", saliency: "saliency map" };
const MISSING = { task: "does not read the question", saliency: "uses no saliency" };

/**
 * Entries of the legend.
 * @param {import("./explanation.js").PatchGrid} grid
 * @param {string} pruner name of the pruner that ran
 * @param {{patches: number, task: number, saliency: number}} opacity of each layer
 * @returns {HTMLElement[]}
 */
export function legend(grid, pruner, opacity) {
  const dropped = grid.clusters.filter((cluster) => cluster < 0).length;
  const merged = grid.clusters.length - dropped - grid.kept.size;
  const [left, top, right, bottom] = grid.viewed;
  const isCut = grid.hasImage && (left > 0 || top > 0 || right < 1 || bottom < 1);
  const isPadded = grid.hasImage && (left < 0 || top < 0 || right > 1 || bottom > 1);
  return [
    ...(opacity.patches
      ? [
          swatch("kept", `kept ${grid.kept.size}`),
          swatch("merged", `merged ${merged}`),
          swatch("dropped", `dropped ${dropped}`),
        ]
      : []),
    ...Object.keys(MAPS)
      .filter((name) => opacity[name])
      .map((name) => scale(name, grid[name], pruner)),
    ...(isCut ? [swatch("cut", "faded: cut away, the model did not see it")] : []),
    ...(isPadded ? [swatch("padding", "padding")] : []),
    ...(grid.hasImage ? [] : [element("span", { text: "The API does not report where this tile lies in the image." })]),
  ];
}

const swatch = (kind, text) => element("span", { class: "key-entry" }, element("i", { class: `swatch ${kind}` }), text);

function scale(name, map, pruner) {
  if (!map) return element("span", { class: "key-entry", text: `no ${MAPS[name]}: ${pruner} ${MISSING[name]}` });
  const [lowest, highest] = range(map).map((value) => value.toPrecision(3));
  const ramp = element("canvas", { class: "ramp", width: STEPS, height: 1, "aria-hidden": "true" });
  const pen = ramp.getContext("2d");
  for (let step = 0; step < STEPS; step++) {
    pen.fillStyle = levelColor(MAP_COLORS[name], step / (STEPS - 1));
    pen.fillRect(step, 0, 1, 1);
  }
  return element("span", { class: "key-entry" }, `${MAPS[name]} ${lowest}`, ramp, highest);
}
