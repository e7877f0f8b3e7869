/** Snippet on screen: kind of code, text, button that copies it. */

import { byId, element } from "./dom.js";
import { KINDS } from "./snippets.js";

/** View of the snippets. */
export class SnippetView {
  #kind = Object.keys(KINDS)[0];
  #requests = [];

  constructor() {
    byId("snippet-kinds").append(...Object.keys(KINDS).map((kind) => this.#choice(kind)));
    byId("copy").addEventListener("click", () => this.#copy());
  }

  /**
   * Shows the code of requests.
   * @param {{title: string, request: object}[]} requests one for each pane
   */
  show(requests) {
    this.#requests = requests;
    this.#write();
  }

  #choice(kind) {
    const input = element("input", { type: "radio", name: "snippet-kind", value: kind, checked: kind === this.#kind });
    input.addEventListener("change", () => {
      this.#kind = kind;
      this.#write();
    });
    return element("label", {}, input, element("span", { text: kind }));
  }

  #write() {
    const blocks = this.#requests.map(({ title, request }) => {
      const heading = this.#requests.length > 1 ? `# ${title}\n` : "";
      return heading + KINDS[this.#kind](request).trimEnd();
    });
    byId("snippet").textContent = blocks.join("\n\n");
    byId("copied").textContent = "";
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(byId("snippet").textContent);
      byId("copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(byId("snippet"));
      byId("copied").textContent = "Selected: the browser does not let this page copy.";
    }
  }
}
