/** DOM helpers of the one-file page and the playground. Text enters a page only as text. */

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Find an element by its id; throws where the page lacks it. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return /** @type {any} */ (element);
}

/**
 * Create an HTML element. Children that are null or undefined are skipped.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `text` sets the text content, `value` the property, and
 *   `onclick` and the like add listeners; null, undefined and false leave an attribute out
 * @param {...(Node|string|null|undefined)} children
 * @returns {any}
 */
export function html(tag, attributes = {}, ...children) {
  return fillElement(document.createElement(tag), attributes, children);
}

/** Create an SVG element; see `html`. */
export function svg(tag, attributes = {}, ...children) {
  return fillElement(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function fillElement(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Scrolling is smooth unless the reader asked for less motion. */
export function scrollBehavior() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth";
}

/** Download a blob under a file name. */
export function downloadBlob(blob, fileName) {
  const url = URL.createObjectURL(blob);
  html("a", { href: url, download: fileName }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be reading it
}
