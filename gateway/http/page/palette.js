/** Colours of the drawings: those of `fovea explain` for tokens and the task map. */

const GOLDEN = 0.61803398875;
// From low to high. Luminance rises throughout.
const HEAT = [
  [8, 8, 40],
  [50, 20, 120],
  [140, 30, 130],
  [220, 60, 80],
  [250, 140, 40],
  [255, 240, 120],
];
const SEA = [
  [4, 22, 40],
  [8, 62, 92],
  [10, 112, 124],
  [40, 164, 136],
  [130, 214, 150],
  [232, 255, 206],
];

/** Colours of both maps by name. */
export const MAP_COLORS = { task: HEAT, saliency: SEA };

/** Colour of the kept token number `index`; tokens of adjacent numbers differ most. */
export function tokenColor(index) {
  const hue = ((0.12 + index * GOLDEN) % 1) * 6;
  const saturation = index % 2 ? 0.75 : 0.95;
  const channel = (shift) => {
    const k = (shift + hue) % 6;
    return Math.round(255 * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return `rgb(${channel(5)} ${channel(3)} ${channel(1)})`;
}

/**
 * Colour of a level.
 * @param {number[][]} colors colours from low to high
 * @param {number} level 0 to 1
 */
export function levelColor(colors, level) {
  const place = level * (colors.length - 1);
  const low = Math.min(Math.floor(place), colors.length - 2);
  const mixed = colors[low].map((value, channel) => value + (colors[low + 1][channel] - value) * (place - low));
  return `rgb(${mixed.map(Math.round).join(" ")})`;
}

/** Levels of a map, 0 to 1; all 0 if all its values are equal. */
export function levels(map) {
  const [lowest, highest] = range(map);
  return map.map((value) => (value - lowest) / (highest - lowest || 1));
}

/** Lowest and highest value of a map. */
export const range = (map) =>
  map.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
