/** The tab of pictures, which are chosen, dropped or pasted, each with its answer. */

import { Answer, percent, verdict } from "./answer.js";
import { element } from "./elements.js";
import { sentenceOf } from "./messages.js";
import { decode, thumbnail } from "./pictures.js";

const THUMBNAIL = 480; // longer side in pixels

/** A gallery of pictures and their answers; the newest come first. */
export class Gallery {
  #list = document.getElementById("gallery");
  #summary = document.getElementById("gallery-summary");
  #controls = document.querySelector(".gallery-controls");
  #ready;
  #last = Promise.resolve();

  /**
   * @param {() => Promise<{network: import("./network.js").Network, settings: object} | null>} ready
   *   gives the network once it is ready, or null if there is none
   */
  constructor(ready) {
    this.#ready = ready;
    document.getElementById("clear").onclick = () => this.#clear();
  }

  /**
   * Reads files one after the other, as several decoded pictures may not fit into the memory.
   * @param {Iterable<File>} files
   */
  add(files) {
    const cards = [...files].map((file) => ({ file, card: makeCard(file) }));
    this.#list.prepend(...cards.map(({ card }) => card));
    this.#controls.hidden = !this.#list.childElementCount;
    this.#last = this.#last.then(() => this.#readAll(cards));
  }

  async #readAll(cards) {
    const loaded = await this.#ready();
    const results = [];
    for (const { file, card } of cards) {
      if (card.isConnected) results.push(await fillCard(card, file, loaded));
    }
    if (!cards.every(({ card }) => card.isConnected)) return; // They were removed meanwhile.
    const count = results.length;
    this.#summary.textContent = count === 1 ? results[0] : `${count} pictures: ${results.join("; ")}`;
  }

  #clear() {
    this.#list.replaceChildren();
    this.#summary.textContent = "";
    this.#controls.hidden = true;
  }
}

function makeCard(file) {
  const name = element("p", { className: "file", dir: "auto", title: file.name }, file.name);
  return element("li", {}, name, element("div", { className: "reading" }, "Reading…"));
}

/** Fills the card of a file with its answer or its error, and returns in words what it says. */
async function fillCard(card, file, loaded) {
  const reading = card.querySelector(".reading");
  let bitmap;
  try {
    bitmap = await decode(file);
    const view = thumbnail(bitmap, THUMBNAIL);
    card.prepend(view);
    if (!loaded) {
      reading.textContent = "There is no network to read it.";
      return `${file.name}: no network`;
    }
    view.className = loaded.settings.fit; // The view then shows what the network sees.
    const result = await loaded.network.read(bitmap);
    new Answer(reading, loaded.settings).show(result);
    const { text, probability } = verdict(result.probabilities, loaded.settings);
    return `${file.name}: ${text}, ${percent(probability)}`;
  } catch (error) {
    reading.textContent = sentenceOf(error);
    reading.classList.add("error");
    return reading.textContent;
  } finally {
    bitmap?.close();
  }
}

/**
 * Lets files be chosen, dropped anywhere, or pasted.
 * @param {(files: File[]) => void} onFiles
 */
export function acceptFiles(onFiles) {
  const input = document.getElementById("files");
  const area = document.getElementById("drop-area");
  const receive = (files) => files?.length && onFiles([...files]);
  input.onchange = () => {
    receive(input.files);
    input.value = ""; // so that the same file can be chosen again
  };
  document.addEventListener("paste", ({ clipboardData }) => receive(clipboardData?.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("hovered");
  });
  document.addEventListener("dragleave", () => area.classList.remove("hovered"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("hovered");
    receive(event.dataTransfer?.files);
  });
}
