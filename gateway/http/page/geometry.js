/** Where an image and its patches lie on a canvas. */

/**
 * @typedef {{left: number, top: number, width: number, height: number}} Box in pixels of the canvas
 * @typedef {{width: number, height: number, image: Box, patches: Box, isCut: boolean, isPadded: boolean}} Layout
 */

/**
 * Layout of the whole image and of all patches, as large as the space allows.
 * @param {{width: number, height: number}} image pixels of the image
 * @param {number[]} viewed left, top, right and bottom of the patches in units of the image's width and height
 * @param {number} maxWidth
 * @param {number} maxHeight
 * @returns {Layout}
 */
export function layout(image, viewed, maxWidth, maxHeight) {
  const [x, y] = [axis(viewed[0], viewed[2]), axis(viewed[1], viewed[3])];
  const scale = Math.min(maxWidth / (x.length * image.width), maxHeight / (y.length * image.height));
  const across = scaled(x, scale * image.width);
  const down = scaled(y, scale * image.height);
  const box = (name) => ({
    left: across[name].start,
    top: down[name].start,
    width: across[name].length,
    height: down[name].length,
  });
  return {
    width: across.length,
    height: down.length,
    image: box("image"),
    patches: box("patches"),
    isCut: x.isCut || y.isCut,
    isPadded: x.isPadded || y.isPadded,
  };
}

const TOLERANCE = 1e-6;

function axis(start, end) {
  const first = Math.min(start, 0);
  return {
    first,
    start,
    end,
    length: Math.max(end, 1) - first,
    isCut: start > TOLERANCE || end < 1 - TOLERANCE,
    isPadded: start < -TOLERANCE || end > 1 + TOLERANCE,
  };
}

function scaled({ first, start, end, length }, scale) {
  const pixels = (from, to) => {
    const edge = Math.round((from - first) * scale);
    return { start: edge, length: Math.max(Math.round((to - first) * scale) - edge, 1) };
  };
  return { length: Math.max(Math.round(length * scale), 1), image: pixels(0, 1), patches: pixels(start, end) };
}

/** Box of a patch. Edges are whole pixels, so that neighbours have no gap. */
export function patchBox({ patches }, { rows, columns }, patch) {
  const [row, column] = [Math.floor(patch / columns), patch % columns];
  const [left, right] = [column, column + 1].map((edge) => patches.left + Math.round((edge * patches.width) / columns));
  const [top, bottom] = [row, row + 1].map((edge) => patches.top + Math.round((edge * patches.height) / rows));
  return { left, top, width: right - left, height: bottom - top };
}

/** Patch at a point of the canvas; -1 for none. */
export function patchAt({ patches }, { rows, columns }, x, y) {
  const column = Math.floor(((x - patches.left) / patches.width) * columns);
  const row = Math.floor(((y - patches.top) / patches.height) * rows);
  return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : -1;
}
