/** Elements of the page. */

/**
 * New element.
 * @param {string} tag name of the element
 * @param {Object<string, unknown>} properties properties; `class`, `text` and names with a hyphen are set as such
 * @param {...(Node|string)} children children in their order
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Element with an id. */
export const byId = (id) => document.getElementById(id);

/** Shows a text in an element, or hides the element if the text is empty. */
export function showText(place, text) {
  place.textContent = text;
  place.hidden = !text;
}
