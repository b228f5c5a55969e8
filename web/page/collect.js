/** The tab in which pictures are taken to train on. */

import { Collection } from "./collection.js";
import { element } from "./elements.js";
import { CAMERA_NEEDED, PageError, TWO_CLASSES } from "./messages.js";

const PICTURES_PER_SECOND = 5;
const LARGEST = 256; // pixels along a side, as training at 224 needs
const LAST = 8; // pictures shown of each class
const KEYS = 9;

/** The tab: a card for each class, and the button that downloads all pictures. */
export class Collect {
  #collection = new Collection();
  #cards = [];
  #camera;
  #list = document.getElementById("classes");
  #message = document.getElementById("collect-message");
  #timer = 0;
  #isTaking = false;

  /**
   * @param {import("./camera.js").Camera} camera
   * @param {() => boolean} isShown says whether the keys are meant for this tab
   */
  constructor(camera, isShown) {
    this.#camera = camera;
    const form = document.getElementById("new-class");
    form.onsubmit = (event) => {
      event.preventDefault();
      const input = document.getElementById("new-class-name");
      if (this.#try(() => this.#collection.addClass(input.value))) input.value = "";
      this.#showClasses();
    };
    document.getElementById("download").onclick = () => this.#download();
    addEventListener("beforeunload", (event) => {
      if (this.#collection.hasUnsavedPictures) event.preventDefault();
    });
    this.#listenToKeys(isShown);
    this.#showClasses();
  }

  /** Adds classes that the reader may want, if there are none yet. */
  suggest(names) {
    if (this.#collection.classes.length) return;
    for (const name of names) this.#try(() => this.#collection.addClass(name));
    this.#showClasses();
  }

  /** Runs a change, and shows its error if it has one. Returns whether it succeeded. */
  #try(change) {
    this.#message.textContent = "";
    try {
      change();
      return true;
    } catch (error) {
      if (!(error instanceof PageError)) throw error;
      this.#message.textContent = error.message;
      return false;
    }
  }

  #listenToKeys(isShown) {
    addEventListener("keydown", (event) => {
      const card = this.#cards[Number(event.key) - 1];
      const isTyping = event.target.matches?.("input, select, textarea");
      if (!card || event.repeat || event.ctrlKey || event.metaKey || event.altKey || isTyping || !isShown()) return;
      this.#startTaking(card);
    });
    addEventListener("keyup", () => this.#stopTaking());
    addEventListener("blur", () => this.#stopTaking());
  }

  #startTaking(card) {
    this.#stopTaking();
    if (!this.#try(() => this.#requireCamera())) return;
    document.getElementById("stage").classList.add("taking");
    card.root.classList.add("taking");
    this.#take(card);
    this.#timer = setInterval(() => this.#take(card), 1000 / PICTURES_PER_SECOND);
  }

  #requireCamera() {
    if (!this.#camera.isRunning) throw new PageError(CAMERA_NEEDED);
  }

  #stopTaking() {
    clearInterval(this.#timer);
    document.getElementById("stage").classList.remove("taking");
    for (const card of this.#cards) card.root.classList.remove("taking");
  }

  async #take(card) {
    if (this.#isTaking) return; // on a slow machine
    if (!this.#camera.isRunning) return this.#stopTaking();
    this.#isTaking = true;
    try {
      this.#collection.addPicture(card.collected, await this.#camera.picture(LARGEST));
    } finally {
      this.#isTaking = false;
    }
    this.#showCounts();
  }

  /** Draws the cards anew, after classes were added or removed. */
  #showClasses() {
    const actions = {
      rename: (collected, name) => {
        this.#try(() => this.#collection.rename(collected, name));
        this.#showCounts();
      },
      remove: (collected) => {
        this.#collection.removeClass(collected);
        this.#showClasses();
      },
      start: (card) => this.#startTaking(card),
      stop: () => this.#stopTaking(),
      removePicture: (collected, picture) => {
        this.#collection.removePicture(collected, picture);
        this.#showCounts();
      },
    };
    const { classes } = this.#collection;
    this.#cards.forEach((card) => card.forget());
    this.#cards = classes.map((collected, i) => new ClassCard(collected, i < KEYS ? i + 1 : "", actions));
    this.#list.replaceChildren(...this.#cards.map(({ root }) => root));
    this.#showCounts();
  }

  #showCounts() {
    for (const card of this.#cards) card.show();
    const { pictureCount, classesWithPictures } = this.#collection;
    document.getElementById("download").disabled = pictureCount === 0;
    document.getElementById("collected").textContent =
      pictureCount && classesWithPictures.length < 2
        ? `${counted(pictureCount)}. ${TWO_CLASSES}`
        : `${counted(pictureCount)}.`;
  }

  async #download() {
    const url = URL.createObjectURL(await this.#collection.zip());
    element("a", { href: url, download: "collected.zip" }).click();
    this.#collection.hasUnsavedPictures = false;
    // The browser may read the file only after the click.
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }
}

function counted(pictures) {
  return pictures === 1 ? "1 picture" : `${pictures} pictures`;
}

/** The card of one class. */
class ClassCard {
  #actions;
  #urls = new Map(); // of the pictures that are shown
  #name = element("input", { className: "class-name", dir: "auto", maxLength: 100, autocomplete: "off" });
  #count = element("span", { className: "count" });
  #folder = element("p", { className: "hint folder", hidden: true });
  #thumbnails = element("ul", { className: "thumbnails" });
  #undo = element("button", { type: "button" }, "Undo");
  #hold = element("button", { type: "button", className: "hold" }, "Hold to take pictures");
  #remove = element("button", { type: "button", className: "quiet" }, "Remove");

  /**
   * @param {import("./collection.js").CollectedClass} collected
   * @param {number | ""} key
   * @param {object} actions to be called when the reader wants a change
   */
  constructor(collected, key, actions) {
    this.collected = collected;
    this.#actions = actions;
    const badge = element("kbd", { hidden: !key }, String(key));
    this.root = element(
      "li",
      {},
      element("div", { className: "class-head" }, badge, this.#name, this.#count),
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

  /** Shows the name, the count and the last pictures. */
  show() {
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
      button.onclick = () => this.#actions.removePicture(this.collected, picture);
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
