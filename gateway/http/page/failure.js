/** Error of a request, as it is shown, with the time after which to try again. */

import { element } from "./dom.js";

/**
 * Shows an error.
 * @param {HTMLElement} place alert of the pane
 * @param {?import("./api.js").ApiError} error null to hide it
 * @param {() => void} retry called when the user tries again
 */
export function showFailure(place, error, retry) {
  clearInterval(Number(place.dataset.timer));
  place.hidden = !error;
  place.replaceChildren();
  if (!error) return;
  const facts = [
    error.status || "",
    error.code,
    error.param && `field ${error.param}`,
    error.requestId && `request ${error.requestId}`,
  ];
  place.append(
    element("p", { class: "message", text: error.message }),
    element("p", { class: "faint", text: facts.filter(Boolean).join(" · ") }),
  );
  if (error.retryAfterS) place.append(retryRow(place, error.retryAfterS, retry));
}

function retryRow(place, seconds, retry) {
  const button = element("button", { type: "button", text: "Try again", disabled: true, onclick: retry });
  // Not announced each second: only its first text and the end are.
  const said = element("span", { class: "countdown", text: `The server asks to wait ${seconds} s.` });
  const end = Date.now() + seconds * 1000;
  const timer = setInterval(() => {
    const left = Math.ceil((end - Date.now()) / 1000);
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    button.disabled = left > 0;
    if (left <= 0) clearInterval(timer);
  }, 250);
  place.dataset.timer = String(timer);
  return element("p", { class: "row" }, said, button);
}
