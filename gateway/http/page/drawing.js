/** Drawing of an image with its patches, maps, cut and padding. */

import { patchBox } from "./geometry.js";
import { MAP_COLORS, levelColor, levels, tokenColor } from "./palette.js";

const MERGED_TINT = 0.28;
const FADED = 0.62;
const STRIPE = 5;
const MAX_FRAME = 6;

/**
 * Draws a scene.
 * @param {CanvasRenderingContext2D} pen of a canvas as large as the layout
 * @param {object} scene
 * @param {?CanvasImageSource} scene.source image; null for a tile whose place in the image is unknown
 * @param {import("./explanation.js").PatchGrid} scene.grid null before there is an explanation
 * @param {import("./geometry.js").Layout} scene.layout
 * @param {{patches: number, task: number, saliency: number}} opacity of each layer, 0 to 1
 * @param {number} patch patch whose cluster is marked; -1 for none
 * @param {string} paper colour behind the page, towards which all that the model did not see is faded
 */
export function draw(pen, scene, opacity, patch, paper) {
  const { grid, layout } = scene;
  pen.clearRect(0, 0, layout.width, layout.height);
  drawGround(pen, scene);
  if (!grid) return;
  fade(pen, layout, paper);
  if (opacity.patches > 0) {
    pen.globalAlpha = opacity.patches;
    pen.drawImage(patchLayer(scene), 0, 0);
  }
  for (const name of ["task", "saliency"]) {
    if (grid[name]) drawMap(pen, scene, grid[name], MAP_COLORS[name], opacity[name]);
  }
  pen.globalAlpha = opacity.patches;
  const isPruned = grid.kept.size < grid.rows * grid.columns;
  for (const [kept, index] of isPruned ? grid.kept : []) frame(pen, patchBox(layout, grid, kept), tokenColor(index));
  pen.globalAlpha = 1;
  if (patch >= 0) markCluster(pen, scene, patch);
}

function drawGround(pen, { source, layout }) {
  if (layout.isPadded || !source) stripes(pen, layout.patches);
  if (!source) return;
  const { left, top, width, height } = layout.image;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, left, top, width, height);
}

function stripes(pen, { left, top, width, height }) {
  const size = 4 * STRIPE;
  const tile = new OffscreenCanvas(size, size);
  const tilePen = tile.getContext("2d");
  tilePen.fillStyle = "rgb(226 226 226)";
  tilePen.fillRect(0, 0, size, size);
  tilePen.strokeStyle = "rgb(206 206 206)";
  tilePen.lineWidth = STRIPE;
  for (const start of [-size, -size / 2, 0, size / 2, size]) {
    tilePen.beginPath();
    tilePen.moveTo(start - STRIPE, size + STRIPE);
    tilePen.lineTo(start + size + STRIPE, -STRIPE);
    tilePen.stroke();
  }
  pen.fillStyle = pen.createPattern(tile, "repeat");
  pen.fillRect(left, top, width, height);
}

/** Fades what lies outside the patches, and frames them. */
function fade(pen, { width, height, patches, isCut }, paper) {
  if (!isCut) return;
  const outside = new Path2D();
  outside.rect(0, 0, width, height);
  outside.rect(patches.left, patches.top, patches.width, patches.height);
  pen.globalAlpha = FADED;
  pen.fillStyle = paper;
  pen.fill(outside, "evenodd");
  pen.globalAlpha = 1;
}

/** Layer in which merged patches are tinted, dropped ones grey, and kept ones as they are. */
function patchLayer(scene) {
  const { grid, layout } = scene;
  const { left, top, width, height } = layout.patches;
  const canvas = new OffscreenCanvas(layout.width, layout.height);
  const pen = canvas.getContext("2d");
  drawGround(pen, scene);
  pen.globalCompositeOperation = "saturation";
  pen.fillStyle = "rgb(128 128 128)";
  pen.fillRect(left, top, width, height);
  pen.globalCompositeOperation = "source-over";
  pen.fillStyle = "rgb(30 30 34 / 0.45)";
  pen.fillRect(left, top, width, height);
  grid.clusters.forEach((cluster, patch) => {
    const box = patchBox(layout, grid, patch);
    if (cluster < 0) fill(pen, box, "rgb(80 80 84)", 0.35);
    else if (!grid.kept.has(patch)) fill(pen, box, tokenColor(cluster), MERGED_TINT);
  });
  borders(pen, scene, (a, b) => grid.clusters[a] !== grid.clusters[b], "rgb(0 0 0)", 1);
  // Kept patches and all outside are as they were.
  const shown = new Path2D();
  for (const patch of grid.kept.keys()) addBox(shown, patchBox(layout, grid, patch));
  pen.save();
  pen.clip(shown);
  drawGround(pen, scene);
  pen.restore();
  clearAround(pen, layout);
  return canvas;
}

function clearAround(pen, { width, height, patches: { left, top, width: across, height: down } }) {
  pen.clearRect(0, 0, width, top);
  pen.clearRect(0, top + down, width, height);
  pen.clearRect(0, 0, left, height);
  pen.clearRect(left + across, 0, width, height);
}

function drawMap(pen, { grid, layout }, map, colors, opacity) {
  if (opacity <= 0) return;
  levels(map).forEach((level, patch) => fill(pen, patchBox(layout, grid, patch), levelColor(colors, level), opacity));
}

/** Marks the patches of one token, and darkens the others. */
function markCluster(pen, scene, patch) {
  const { grid, layout } = scene;
  const cluster = grid.clusters[patch];
  const isIn = cluster < 0 ? (other) => other === patch : (other) => grid.clusters[other] === cluster;
  grid.clusters.forEach((_, other) => {
    if (!isIn(other)) fill(pen, patchBox(layout, grid, other), "rgb(0 0 0)", 0.5);
  });
  const isEdge = (a, b) => isIn(a) !== isIn(b);
  borders(pen, scene, isEdge, "rgb(0 0 0)", 5);
  borders(pen, scene, isEdge, cluster < 0 ? "rgb(255 255 255)" : tokenColor(cluster), 3);
  const { left, top, width, height } = patchBox(layout, grid, patch);
  pen.strokeStyle = "rgb(255 255 255)";
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  pen.strokeRect(left + 2.5, top + 2.5, width - 5, height - 5);
  pen.setLineDash([]);
}

/** Draws lines between neighbouring patches for which `isEdge` holds. */
function borders(pen, { grid, layout }, isEdge, color, lineWidth) {
  const { rows, columns } = grid;
  pen.strokeStyle = color;
  pen.lineWidth = lineWidth;
  pen.lineCap = "square";
  pen.beginPath();
  for (let patch = 0; patch < rows * columns; patch++) {
    const { left, top, width, height } = patchBox(layout, grid, patch);
    const below = patch + columns;
    if ((patch + 1) % columns && isEdge(patch, patch + 1)) line(pen, left + width, top, left + width, top + height);
    if (below < rows * columns && isEdge(patch, below)) line(pen, left, top + height, left + width, top + height);
  }
  pen.stroke();
}

function line(pen, fromX, fromY, toX, toY) {
  pen.moveTo(fromX, fromY);
  pen.lineTo(toX, toY);
}

function fill(pen, { left, top, width, height }, color, opacity) {
  pen.globalAlpha = opacity;
  pen.fillStyle = color;
  pen.fillRect(left, top, width, height);
  pen.globalAlpha = 1;
}

const addBox = (path, { left, top, width, height }) => path.rect(left, top, width, height);

function frame(pen, { left, top, width, height }, color) {
  const thickness = Math.min(Math.max(Math.round(width / 10), 1), MAX_FRAME);
  pen.strokeStyle = color;
  pen.lineWidth = thickness;
  pen.strokeRect(left + thickness / 2, top + thickness / 2, width - thickness, height - thickness);
}
