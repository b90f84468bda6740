/** Make elements; text enters a page only as text. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [given] attributes; `text` is its text, `onclick` and the like listen
 * @param {...(Node|string|null)} children
 * @returns {any} the element
 */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) give(made, name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Make an element of a picture. */
export function svg(tag, given = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) give(made, name, value);
  made.append(...children);
  return made;
}

/** Find what the page has by its id. */
export function part(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return /** @type {any} */ (found);
}

function give(made, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "text") made.textContent = value;
  else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
  else if (name === "value") made.value = value;
  else made.setAttribute(name, value === true ? "" : String(value));
}
