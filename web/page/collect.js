/** The tab in which pictures are taken to train on. */

import { ClassCard, counted } from "./card.js";
import { Collection } from "./collection.js";
import { element } from "./elements.js";
import { CAMERA_NEEDED, PageError, sentenceOf, TWO_CLASSES } from "./messages.js";

const PICTURES_PER_SECOND = 5;
const LARGEST = 256; // pixels along a side, as training at 224 needs
const KEYS = "123456789";

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

  /** Adds classes that the user may want, if there are none yet. */
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
      this.#message.textContent = sentenceOf(error);
      return false;
    }
  }

  #listenToKeys(isShown) {
    addEventListener("keydown", (event) => {
      const card = this.#cards.find(({ key }) => key === event.key);
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
    for (const { root, collected } of this.#cards) {
      if (!root.classList.contains("taking")) continue;
      root.classList.remove("taking");
      if (!this.#isTaking) this.#announce(collected);
    }
  }

  /** Tells screen readers the count, once and not with every picture. */
  #announce({ name, pictures }) {
    document.getElementById("taken").textContent = `${name}: ${counted(pictures.length)}`;
  }

  async #take(card) {
    if (this.#isTaking) return; // on a slow machine
    if (!this.#camera.isRunning) return this.#stopTaking();
    this.#isTaking = true;
    try {
      this.#collection.addPicture(card.collected, await this.#camera.picture(LARGEST));
    } catch (error) {
      this.#message.textContent = sentenceOf(error);
      this.#stopTaking();
    } finally {
      this.#isTaking = false;
    }
    this.#showChanges();
    // The last picture arrives after its button was let go.
    if (!card.root.classList.contains("taking")) this.#announce(card.collected);
  }

  /** Makes the cards anew, after classes were added or removed. */
  #showClasses() {
    const actions = {
      rename: (collected, name) => {
        this.#try(() => this.#collection.rename(collected, name));
        this.#showChanges();
      },
      remove: (collected) => {
        const { name, pictures } = collected;
        if (pictures.length && !confirm(`Remove “${name}” with ${counted(pictures.length)}?`)) return;
        this.#collection.removeClass(collected);
        this.#showClasses();
      },
      start: (card) => this.#startTaking(card),
      stop: () => this.#stopTaking(),
      removePicture: (collected, picture) => {
        this.#collection.removePicture(collected, picture);
        this.#showChanges();
      },
    };
    this.#cards.forEach((card) => card.forget());
    this.#cards = this.#collection.classes.map((collected) => new ClassCard(collected, actions));
    this.#list.replaceChildren(...this.#cards.map(({ root }) => root));
    this.#showChanges();
  }

  #showChanges() {
    const keys = keysOf(this.#collection.classes.map(({ name }) => name));
    this.#cards.forEach((card, i) => card.show(keys[i]));
    const { pictureCount, classesWithPictures } = this.#collection;
    document.getElementById("download").disabled = pictureCount === 0;
    document.getElementById("collected").textContent =
      pictureCount && classesWithPictures.length < 2
        ? `${counted(pictureCount)}. ${TWO_CLASSES}`
        : `${counted(pictureCount)}.`;
  }

  async #download() {
    this.#message.textContent = "";
    try {
      const url = URL.createObjectURL(await this.#collection.zip());
      element("a", { href: url, download: "collected.zip" }).click();
      this.#collection.hasUnsavedPictures = false;
      // The browser may read the file only after the click.
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      this.#message.textContent = sentenceOf(error);
    }
  }
}

/** Returns a key for each class, or "": a digit has its own, and other names the first that are free. */
function keysOf(names) {
  const free = [...KEYS].filter((key) => !names.includes(key));
  return names.map((name) => (/^\d$/.test(name) ? name : (free.shift() ?? "")));
}
