/** API key of this tab: form, and the header that carries it. */

import { byId, showText } from "./dom.js";

const PLACE = "fovea.api-key";

/** Whether this tab has a key. */
export const hasKey = () => Boolean(sessionStorage.getItem(PLACE));

/** Headers with the key; none without one. */
export function authorization() {
  const key = sessionStorage.getItem(PLACE);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Opens the form and asks for a key, since the server refused a request with 401. */
export function askForKey() {
  open(true);
  showText(byId("key-error"), hasKey() ? "The server did not accept this key." : "This server needs an API key.");
  byId("key").focus();
}

/**
 * Connects the form.
 * @param {() => void} onChange called after the key was set or forgotten
 */
export function startKeyForm(onChange) {
  const [form, toggle, field] = ["key-form", "key-toggle", "key"].map(byId);
  toggle.addEventListener("click", () => {
    open(form.hidden);
    if (!form.hidden) field.focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!/^[\x21-\x7e]{1,4096}$/.test(key)) {
      showText(byId("key-error"), "A key has printable ASCII characters without spaces.");
      return;
    }
    keep(key);
    onChange();
  });
  byId("key-forget").addEventListener("click", () => {
    keep("");
    onChange();
  });
  mark();
}

function keep(key) {
  if (key) sessionStorage.setItem(PLACE, key);
  else sessionStorage.removeItem(PLACE);
  byId("key").value = "";
  showText(byId("key-error"), "");
  open(false);
  mark();
}

function open(shown) {
  byId("key-form").hidden = !shown;
  byId("key-toggle").setAttribute("aria-expanded", String(shown));
}

function mark() {
  byId("key-toggle").textContent = hasKey() ? "API key ✓" : "API key";
  byId("key-forget").hidden = !hasKey();
}
