/** The cards of the classes that are collected. */

import { element } from "./elements.js";

const LAST = 8; // pictures shown of each class

/** Returns in words how many pictures there are. */
export function counted(pictures) {
  return pictures === 1 ? "1 picture" : `${pictures} pictures`;
}

/** The card of a class, with its button to hold. */
export class ClassCard {
  #actions;
  #urls = new Map(); // of the pictures that are shown
  #badge = element("kbd");
  #name = element("input", { className: "class-name", dir: "auto", maxLength: 100, autocomplete: "off" });
  #count = element("span", { className: "count" });
  #folder = element("p", { className: "hint folder", hidden: true });
  #thumbnails = element("ul", { className: "thumbnails" });
  #undo = element("button", { type: "button" }, "Undo");
  #hold = element("button", { type: "button", className: "hold" }, "Hold to take");
  #remove = element("button", { type: "button", className: "quiet" }, "Remove");

  /**
   * @param {import("./collection.js").CollectedClass} collected
   * @param {{
   *   rename: (collected: object, name: string) => void,
   *   remove: (collected: object) => void,
   *   start: (card: ClassCard) => void,
   *   stop: () => void,
   *   removePicture: (collected: object, picture: Blob) => void,
   * }} actions to be called when the user wants a change
   */
  constructor(collected, actions) {
    this.collected = collected;
    this.#actions = actions;
    this.root = element(
      "li",
      {},
      element("div", { className: "class-head" }, this.#badge, this.#name, this.#count),
      this.#folder,
      this.#thumbnails,
      element("div", { className: "class-buttons" }, this.#hold, this.#undo, this.#remove),
    );
    this.#name.onchange = () => actions.rename(collected, this.#name.value);
    this.#undo.onclick = () => actions.removePicture(collected, collected.pictures.at(-1));
    this.#remove.onclick = () => actions.remove(collected);
    this.#listenToHolding();
  }

  /** Takes pictures while the button is held, by pointer or by key, and one for a click of a screen reader. */
  #listenToHolding() {
    const { start, stop } = this.#actions;
    const hold = this.#hold;
    hold.onpointerdown = ({ pointerId }) => {
      hold.setPointerCapture(pointerId);
      start(this);
    };
    hold.onlostpointercapture = stop;
    hold.oncontextmenu = (event) => event.preventDefault();
    hold.onkeydown = (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault(); // or a click would follow
      if (!event.repeat) start(this);
    };
    hold.onclick = ({ detail }) => {
      if (detail !== 0) return; // The pointer has been heard already.
      start(this);
      stop();
    };
  }

  /**
   * Shows the name, the count and the last pictures.
   * @param {string} key that takes pictures while it is held, or ""
   */
  show(key) {
    this.key = this.#badge.textContent = key;
    this.#badge.hidden = !key;
    const { name, folder, pictures } = this.collected;
    if (document.activeElement !== this.#name) this.#name.value = name;
    this.#name.ariaLabel = `Name of class ${name}`;
    this.#count.textContent = counted(pictures.length);
    this.#hold.ariaLabel = `Hold to take pictures of ${name}`;
    this.#undo.ariaLabel = `Undo the last picture of ${name}`;
    this.#remove.ariaLabel = `Remove class ${name}`;
    this.#undo.disabled = pictures.length === 0;
    this.#folder.hidden = folder === name;
    this.#folder.textContent = `Its folder will be ${folder}`;
    this.#showThumbnails(pictures.slice(-LAST));
  }

  #showThumbnails(pictures) {
    for (const picture of this.#urls.keys()) if (!pictures.includes(picture)) this.#forgetPicture(picture);
    for (const picture of pictures) {
      if (this.#urls.has(picture)) continue;
      const url = URL.createObjectURL(picture);
      const button = element("button", { type: "button", ariaLabel: "Delete this picture", title: "Delete" });
      button.append(element("img", { src: url, alt: "" }));
      button.onclick = () => {
        this.#actions.removePicture(this.collected, picture);
        this.#hold.focus(); // The button that had the focus is gone.
      };
      const item = element("li", {}, button);
      this.#urls.set(picture, { url, item });
    }
    this.#thumbnails.replaceChildren(...pictures.map((picture) => this.#urls.get(picture).item));
  }

  #forgetPicture(picture) {
    URL.revokeObjectURL(this.#urls.get(picture).url);
    this.#urls.delete(picture);
  }

  /** Gives back what the thumbnails take in memory. */
  forget() {
    for (const picture of [...this.#urls.keys()]) this.#forgetPicture(picture);
  }
}
