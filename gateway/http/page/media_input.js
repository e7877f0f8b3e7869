/** Ways to choose images: files, drop, paste, samples. */

import { byId, element, showText } from "./dom.js";

/**
 * Connects the ways to choose images, and lists the chosen ones.
 * @param {import("./images.js").Images} images
 * @param {(sample: {questions: string[]}) => void} onSample called after a sample was chosen
 */
export function startMediaInput(images, onSample) {
  const drop = byId("drop");
  const file = byId("file");
  byId("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    addTo(images, file.files);
    file.value = "";
  });
  // A file that misses the drop zone must not replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    addTo(images, event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      addTo(images, event.clipboardData.files);
    }
  });
  images.addEventListener("change", () => list(images));
  listSamples(images, onSample);
}

/** Adds files to the images, or shows why not. */
export async function addTo(images, files, options) {
  try {
    await images.add(files, options);
    showText(byId("media-error"), "");
    return true;
  } catch (error) {
    showText(byId("media-error"), error.message);
    return false;
  }
}

function list(images) {
  byId("drop-hint").hidden = images.items.length > 0;
  byId("images").replaceChildren(
    ...images.items.map((item) =>
      element(
        "li",
        {},
        element("img", { src: item.url, alt: item.name }),
        element(
          "span",
          { class: "image-name" },
          element("a", { href: item.url, download: item.name, text: item.name, title: "Save this file" }),
          element("span", { class: "faint", text: `${item.bitmap.width} × ${item.bitmap.height}` }),
        ),
        element("button", {
          type: "button",
          class: "quiet",
          text: "×",
          "aria-label": `Remove ${item.name}`,
          onclick: () => {
            images.remove(item);
            byId("choose").focus();
          },
        }),
      ),
    ),
  );
}

async function listSamples(images, onSample) {
  const response = await fetch("page/samples/samples.json");
  const samples = await response.json();
  const choose = async (sample) => {
    const data = await (await fetch(`page/samples/${sample.file}`)).blob();
    const file = new File([data], sample.file, { type: data.type });
    if (await addTo(images, [file], { replace: true })) onSample(sample);
  };
  byId("samples").replaceChildren(
    ...samples.map((sample) =>
      element(
        "li",
        {},
        element(
          "button",
          { type: "button", title: sample.title, onclick: () => choose(sample) },
          element("img", { src: `page/samples/${sample.file}`, alt: sample.title }),
        ),
      ),
    ),
  );
}
