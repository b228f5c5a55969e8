/**
 * Makes an element of the page.
 * @param {string} tag
 * @param {object} properties such as `className`
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
