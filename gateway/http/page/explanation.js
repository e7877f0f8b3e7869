/** Explanation of an answer as a list of patch grids: one for each image, tile or frame. */

/**
 * @typedef {object} PatchGrid
 * @property {string} name name among several; empty for a single one
 * @property {number} image index of its image
 * @property {boolean} hasImage whether the image lies under it: it does not for tiles other than the base tile, whose
 *   place the API does not report
 * @property {number} rows
 * @property {number} columns
 * @property {number[]} viewed left, top, right and bottom in units of the image's width and height
 * @property {number[]} clusters index of the kept token that each patch is or was merged into; -1 for a dropped one
 * @property {Map<number, number>} kept index of the kept token by patch
 * @property {number} numKept kept tokens of the whole image
 * @property {?number[]} task task map in raster order; null if the pruner has none
 * @property {?number[]} saliency saliency map in raster order; null if the pruner has none
 */

const WHOLE = [0, 0, 1, 1];

/**
 * Patch grids of an answer.
 * @param {object} explain object `explain` of `/v1/answer`, with or without `visuals`
 * @returns {PatchGrid[]}
 */
export function patchGrids(explain) {
  if (!explain.visuals) {
    const single = (map) => (map ? [map] : null);
    return [
      grid(
        {
          ...explain,
          grid: [1, ...explain.grid],
          task_map: single(explain.task_map),
          saliency_map: single(explain.saliency_map),
          merged_into: single(explain.merged_into),
        },
        0,
        0,
        "",
      ),
    ];
  }
  const several = explain.visuals.length > 1;
  return explain.visuals.flatMap((visual, index) => {
    const [frames] = visual.grid;
    return Array.from({ length: frames }, (_, frame) => {
      const image = several ? `image ${index + 1}` : "";
      const tile = frames === 1 ? "" : frame === 0 ? "base tile" : `tile ${frame}`;
      return grid(visual, index, frame, [image, tile].filter(Boolean).join(", "));
    });
  });
}

function grid(visual, image, frame, name) {
  const [, rows, columns] = visual.grid;
  const first = frame * rows * columns;
  const flat = (map) => map?.[frame]?.flat() ?? null;
  const merged = flat(visual.merged_into);
  const kept = new Map();
  visual.kept.forEach((position, index) => {
    const patch = position - first;
    // A token that is not a patch, such as CLS, has the position of a patch that was merged or dropped.
    if (patch >= 0 && patch < rows * columns && (!merged || merged[patch] === index)) kept.set(patch, index);
  });
  const clusters = merged ?? Array.from({ length: rows * columns }, (_, patch) => kept.get(patch) ?? -1);
  return {
    name,
    image,
    rows,
    columns,
    clusters,
    kept,
    hasImage: frame === 0,
    viewed: visual.viewed ?? WHOLE,
    numKept: visual.kept.length,
    task: flat(visual.task_map),
    saliency: flat(visual.saliency_map),
  };
}

/**
 * Description of a patch in one sentence.
 * @param {PatchGrid} grid
 * @param {number} patch position in raster order
 */
export function describePatch(grid, patch) {
  const cluster = grid.clusters[patch];
  const others = grid.clusters.filter((other) => other === cluster).length - 1;
  const token = `token ${cluster + 1} of ${grid.numKept}`;
  let fate = "dropped";
  if (grid.kept.has(patch))
    fate = `kept as ${token}${others ? `, ${count(others, "patch", "patches")} merged into it` : ""}`;
  else if (cluster >= 0) fate = `merged into ${token} with ${count(others, "other patch", "other patches")}`;
  const place = `Row ${Math.floor(patch / grid.columns) + 1}, column ${(patch % grid.columns) + 1}`;
  return [`${place}: ${fate}`, score("task", grid.task, patch), score("saliency", grid.saliency, patch)]
    .filter(Boolean)
    .join(" · ");
}

const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

function score(name, map, patch) {
  if (!map) return "";
  const rank = 1 + map.filter((value) => value > map[patch]).length;
  return `${name} ${map[patch].toPrecision(3)}, rank ${rank} of ${map.length}`;
}
