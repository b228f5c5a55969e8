/** An answer: its sign in large letters, and the probabilities as bars. */

import { element } from "./elements.js";

const MOST_ROWS = 6; // With more classes, the five most probable are shown.
const TOP = 5;
const NO_SIGN = "No sign";

/**
 * Says what an answer means: the most probable class, unless the network is too unsure.
 * @param {number[]} probabilities
 * @param {import("./network.js").Settings} settings
 * @returns {{text: string, probability: number, isSign: boolean}}
 */
export function verdict(probabilities, settings) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  const probability = probabilities[best];
  const isSign = !settings.no_sign || probability >= settings.no_sign.threshold;
  return { text: isSign ? settings.class_names[best] : NO_SIGN, probability, isSign };
}

/** @param {number} share from 0 to 1 */
export function percent(share) {
  return `${Math.round(share * 100)}%`;
}

/** An answer in the page, which changes with every reading. */
export class Answer {
  #settings;
  #text = element("p", { className: "sign", dir: "auto" });
  #time = element("p", { className: "time" });
  #rows;
  #root;

  /**
   * @param {HTMLElement} root that it fills
   * @param {import("./network.js").Settings} settings
   */
  constructor(root, settings) {
    this.#root = root;
    this.#settings = settings;
    const count = settings.class_names.length;
    this.#rows = Array.from({ length: count > MOST_ROWS ? TOP : count }, () => new Row());
    const bars = element("ol", { className: "bars" }, ...this.#rows.map((row) => row.item));
    root.classList.add("answer");
    root.hidden = true; // until there is a reading
    root.replaceChildren(this.#text, bars, this.#time);
  }

  /**
   * Shows a reading.
   * @param {import("./network.js").Reading} reading
   */
  show({ probabilities, milliseconds }) {
    const { text, isSign } = verdict(probabilities, this.#settings);
    this.#root.hidden = false;
    this.#text.textContent = text;
    this.#text.dataset.length = text.length < 4 ? "short" : text.length < 13 ? "medium" : "long";
    this.#root.classList.toggle("no-sign", !isSign);
    const order = probabilities.map((_, label) => label);
    // Few classes keep their places, which is calmer to look at.
    if (order.length > MOST_ROWS) order.sort((a, b) => probabilities[b] - probabilities[a]);
    const highest = Math.max(...probabilities);
    this.#rows.forEach((row, i) => {
      const probability = probabilities[order[i]];
      row.show(this.#settings.class_names[order[i]], probability, probability === highest);
    });
    this.#time.textContent = `${Math.max(Math.round(milliseconds), 1)} ms an image`;
  }

  /** Hides it until the next reading. */
  hide() {
    this.#root.hidden = true;
  }
}

/** The bar of one class. */
class Row {
  #name = element("span", { className: "name", dir: "auto" });
  #bar = element("span", { className: "bar" });
  #value = element("data", { className: "share" });
  item = element("li", {}, this.#name, this.#bar, this.#value);

  show(name, probability, isBest) {
    this.#name.textContent = this.#name.title = name;
    this.#bar.style.setProperty("--share", probability);
    this.#value.value = String(probability);
    this.#value.textContent = percent(probability);
    this.item.classList.toggle("best", isBest);
  }
}
