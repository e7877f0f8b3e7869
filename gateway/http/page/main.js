/** Start of the page: connects images, question, panes and snippets. */

import { get } from "./api.js";
import { askForKey, hasKey, startKeyForm } from "./api_key.js";
import { startCamera } from "./camera.js";
import { byId, element } from "./dom.js";
import { showFailure } from "./failure.js";
import { Images } from "./images.js";
import { Layers } from "./layers.js";
import { startMediaInput } from "./media_input.js";
import { Pane } from "./pane.js";
import { SnippetView } from "./snippet_view.js";

const NAMES = ["Setting A", "Setting B"];
const BASELINE = "none";
/** Time without a further change after which the page asks again. */
const SETTLE_MS = 200;

const images = new Images();
const layers = new Layers(byId("layers"));
const snippets = new SnippetView();
let model = "";
let panes = [];
let timer = 0;
const waiting = new Set();

const shown = () => (byId("compare").checked ? panes : panes.slice(0, 1));
const question = () => byId("question").value.trim();
const shared = () => ({
  maxTokens: byId("max-tokens").value,
  cache: byId("cache").value,
  explain: byId("explain").checked,
});

/** Reads the catalog of pruners and makes the panes; asks for a key or says why not if the server refuses. */
async function load() {
  const place = element("div", { class: "failure error", role: "alert" });
  try {
    const [catalog, models] = await Promise.all([get("v1/pruners"), get("v1/models")]);
    model = models.data[0].id;
    byId("model").textContent = model;
    makePanes(catalog);
  } catch (error) {
    byId("panes").replaceChildren(place);
    showFailure(place, error, load);
    if (error.status === 401) askForKey();
  }
  update();
}

function makePanes(catalog) {
  const hasBaseline = catalog.pruners.some(({ name }) => name === BASELINE);
  const presets = [catalog.default_pruner, hasBaseline ? BASELINE : catalog.default_pruner];
  panes = NAMES.map((name, index) => new Pane(name, catalog, presets[index], images, layers));
  for (const pane of panes) {
    pane.addEventListener("state", update);
    pane.addEventListener("setting", () => changed([pane]));
    pane.picture.addEventListener("patch", () => panes.forEach((other) => other.picture.follow(pane.picture.patch)));
  }
  byId("panes").replaceChildren(...panes.map((pane) => pane.node));
}

/** Asks because the user wants an answer now. On a narrow screen the answer is far below the question. */
function askNow() {
  ask();
  if (canAsk()) panes[0].reveal();
}

function ask(some = shown()) {
  clearTimeout(timer);
  if (!canAsk()) return;
  for (const pane of some) pane.ask(question(), shared());
}

const canAsk = () => panes.length > 0 && images.items.length > 0 && question() !== "";

/** Asks again after a change, or says that the answers are to another request. */
function changed(some = shown()) {
  update();
  const asked = some.filter((pane) => shown().includes(pane) && (pane.hasResult || pane.isAsking));
  if (byId("live").checked) askSoon(asked);
  else for (const pane of asked) pane.say("The request has changed since this answer.");
}

/** Asks once after several changes in a row, such as those of a slider moved by keys. */
function askSoon(some) {
  for (const pane of some) waiting.add(pane);
  clearTimeout(timer);
  timer = setTimeout(() => {
    ask([...waiting]);
    waiting.clear();
  }, SETTLE_MS);
}

function update() {
  const isCompared = byId("compare").checked;
  byId("panes").classList.toggle("compared", isCompared);
  panes.forEach((pane, index) => (pane.node.hidden = index > 0 && !isCompared));
  byId("submit").disabled = !canAsk();
  byId("stop").disabled = !panes.some((pane) => pane.isAsking);
  byId("snippets").hidden = !images.items.length;
  const url = new URL(".", document.baseURI).href.replace(/\/$/, "");
  snippets.show(
    shown().map((pane, index) => ({
      title: `${NAMES[index]}: ${pane.setting.title}`,
      request: { url, images: images.items, fields: pane.fields(question(), shared()), needsKey: hasKey(), model },
    })),
  );
}

function suggest(questions) {
  byId("suggestions").replaceChildren(
    ...questions.map((text) =>
      element(
        "li",
        {},
        element("button", {
          type: "button",
          text,
          onclick: () => {
            byId("question").value = text;
            update();
            askNow();
          },
        }),
      ),
    ),
  );
}

startKeyForm(() => (panes.length ? changed() : load()));
startCamera(images);
startMediaInput(images, ({ questions }) => {
  byId("question").value = questions[0];
  suggest(questions);
  update();
});
images.addEventListener("change", () => {
  suggest([]);
  for (const pane of panes) pane.clear();
  update();
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  askNow();
});
byId("stop").addEventListener("click", () => panes.forEach((pane) => pane.stop()));
byId("question").addEventListener("input", update);
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    askNow();
  }
});
byId("compare").addEventListener("change", () => {
  update();
  if (byId("live").checked && byId("compare").checked && panes[0]?.hasResult) ask([panes[1]]);
  if (!byId("compare").checked) panes[1]?.stop();
});
for (const id of ["max-tokens", "cache", "explain"]) byId(id).addEventListener("change", () => changed());
load();
