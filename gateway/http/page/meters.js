/** Meters of an answer: stages, tokens, bytes, caches. */

import { element } from "./dom.js";

/**
 * Rows of meters.
 * @param {object} answer object of `/v1/answer`
 * @param {Blob[]} files image files
 * @returns {HTMLElement[]}
 */
export function meters(answer, files) {
  const { usage, timing_ms: timing } = answer;
  return [
    stageMeter(timing),
    tokenMeter(usage),
    byteMeter(usage, files),
    cacheMeter(answer.cache),
    row("Text", [
      `${usage.prompt_tokens} tokens in the prompt, ${usage.completion_tokens} in the answer`,
      answer.finish_reason === "length" ? " (cut off at the limit)" : "",
    ]),
  ];
}

/** Stages of an answer in order, in milliseconds. They add up to the total. */
export function stages(timing) {
  const { tokenize, encode, generate, total } = timing;
  const beforeGenerate = Math.max(total - generate, 0);
  const prefill = Math.min(Math.max(timing.time_to_first_token - beforeGenerate, 0), generate);
  return [
    ["gateway", Math.max(beforeGenerate - tokenize - encode, 0), "reading the request and looking up the caches"],
    ["tokenize", tokenize, "tokenizing the question"],
    ["encode", encode, "call to the encoder service"],
    ["prefill", prefill, "call to the LLM service until the first text"],
    ["decode", generate - prefill, "further text"],
  ];
}

function stageMeter(timing) {
  const parts = stages(timing);
  const bar = element("span", { class: "stack", "aria-hidden": "true" });
  const list = element("span", { class: "stages" });
  for (const [name, duration, meaning] of parts) {
    const part = element("span", {
      class: `part stage-${name}`,
      title: `${name}: ${milliseconds(duration)}, ${meaning}`,
    });
    part.style.flexGrow = String(duration);
    bar.append(part);
    list.append(
      element(
        "span",
        { class: "key-entry", title: meaning },
        element("i", { class: `swatch stage-${name}` }),
        `${name} ${milliseconds(duration)}`,
      ),
    );
  }
  const queue = timing.queue >= 1 ? `, ${milliseconds(timing.queue)} of it in queues` : "";
  const first = `first text after ${milliseconds(timing.time_to_first_token)}${queue}`;
  return row("Time", [element("b", { text: milliseconds(timing.total) }), ` · ${first}`], bar, list);
}

function tokenMeter({ visual_tokens_kept: kept, visual_tokens_total: total, visual_tokens_by_layer: byLayer }) {
  const share = total ? ` (${percent(kept / total)})` : "";
  const layers = byLayer
    ? [element("span", { class: "faint", text: `by layer of the language model: ${byLayer.join(", ")}` })]
    : [];
  return row(
    "Visual tokens",
    [element("b", { class: "kept", text: String(kept) }), ` of ${total} kept${share}`],
    bars([["tokens", kept, total]]),
    ...layers,
  );
}

function byteMeter({ wire_bytes: wire, wire_dtype: format }, files) {
  const file = files.reduce((sum, { size }) => sum + size, 0);
  const images = files.length === 1 ? "image file" : `${files.length} image files`;
  const most = Math.max(wire, file);
  const sent = wire ? `${bytes(wire)} on the wire (${format})` : "nothing on the wire";
  return row(
    "Bytes",
    [element("b", { text: sent }), ` · ${images} ${bytes(file)}`, wire && file ? ` (${ratio(wire, file)})` : ""],
    bars([
      ["wire", wire, most],
      ["file", file, most],
    ]),
  );
}

function cacheMeter(cache) {
  const names = { answer: "answer", visual_tokens: "visual tokens", features: "features" };
  const chips = Object.entries(names).map(([name, label]) =>
    element("span", {
      class: `chip ${cache[name]}`,
      text: `${label}: ${cache[name] === "skip" ? "not looked up" : cache[name]}`,
    }),
  );
  return row("Caches", chips);
}

function row(name, said, ...rest) {
  return element("div", { class: "meter" }, element("h3", { text: name }), element("p", {}, ...said), ...rest);
}

function bars(values) {
  return element(
    "span",
    { class: "bars", "aria-hidden": "true" },
    ...values.map(([kind, value, most]) => {
      const fill = element("span", { class: `fill ${kind}` });
      fill.style.width = `${most ? (100 * value) / most : 0}%`;
      return element("span", { class: "track" }, fill);
    }),
  );
}

const ratio = (wire, file) => `${Number((file / wire).toPrecision(2))} ×`;
const percent = (share) => `${Number((share * 100).toPrecision(3))} %`;

function milliseconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} ms`;
  return value < 999.5 ? `${Math.round(value)} ms` : `${(value / 1000).toPrecision(3)} s`;
}

function bytes(value) {
  if (value < 1000) return `${value} B`;
  return value < 999_500 ? `${Number((value / 1000).toPrecision(3))} kB` : `${Number((value / 1e6).toPrecision(3))} MB`;
}
