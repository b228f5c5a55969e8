/** The pictures that are collected, by class, and the zip that holds them. */

import { zipSync } from "./runtime/fflate.js";
import { EMPTY_NAME, PageError, sameFolder } from "./messages.js";

const LONGEST = 60; // characters of a folder's name, which may have 255 bytes
const RESERVED = [
  /^(train|training|val|valid|validation|test|testing)$/i, // Training takes these folders for splits,
  /^(__macosx|thumbs\.db|desktop\.ini|@eadir|\$recycle\.bin)$/i, // passes over these,
  /^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$/i, // and Windows has no such names.
];

/**
 * Returns a name that is safe as a folder, on every system and for training.
 * @param {string} name of a class
 */
export function folderName(name) {
  const short = [...name.normalize("NFC").trim()].slice(0, LONGEST).join("");
  // Names with a dot in front are hidden, and Windows drops dots and blanks at the end.
  const safe = short.replace(/[\\/:*?"<>|\p{Cc}\p{Cs}]/gu, "_").replace(/^\.|[. ]+$/g, "_");
  return RESERVED.some((pattern) => pattern.test(safe)) ? `_${safe}` : safe;
}

/** A class and its pictures. */
export class CollectedClass {
  /** @type {Blob[]} PNG, the oldest first */
  pictures = [];

  constructor(name) {
    this.name = name;
  }

  get folder() {
    return folderName(this.name);
  }
}

/** Classes with their pictures. */
export class Collection {
  /** @type {CollectedClass[]} */
  classes = [];
  hasUnsavedPictures = false;

  get pictureCount() {
    return this.classes.reduce((sum, { pictures }) => sum + pictures.length, 0);
  }

  get classesWithPictures() {
    return this.classes.filter(({ pictures }) => pictures.length);
  }

  /**
   * Adds a class without pictures.
   * @throws {PageError} if the name is empty or its folder is taken
   */
  addClass(name) {
    this.#checkName(name);
    this.classes.push(new CollectedClass(name.trim()));
  }

  /**
   * Gives a class another name.
   * @throws {PageError} if the name is empty or its folder is taken
   */
  rename(collected, name) {
    this.#checkName(name, collected);
    collected.name = name.trim();
    this.#noteChange();
  }

  #checkName(name, except = null) {
    if (!name.trim()) throw new PageError(EMPTY_NAME);
    // Many file systems do not tell a from A.
    const folder = folderName(name).toLowerCase();
    const other = this.classes.find((each) => each !== except && each.folder.toLowerCase() === folder);
    if (other) throw new PageError(sameFolder(name.trim(), other.name));
  }

  removeClass(collected) {
    this.classes = this.classes.filter((each) => each !== collected);
    this.#noteChange();
  }

  addPicture(collected, picture) {
    collected.pictures.push(picture);
    this.#noteChange();
  }

  removePicture(collected, picture) {
    collected.pictures = collected.pictures.filter((each) => each !== picture);
    this.#noteChange();
  }

  #noteChange() {
    this.hasUnsavedPictures = this.pictureCount > 0;
  }

  /** Returns a zip of `CLASS/0001.png` and so on, for `configs/folder.py`. */
  async zip() {
    const files = {};
    for (const { folder, pictures } of this.classes) {
      for (const [i, picture] of pictures.entries()) {
        const path = `${folder}/${String(i + 1).padStart(4, "0")}.png`;
        files[path] = new Uint8Array(await picture.arrayBuffer());
      }
    }
    return new Blob([zipSync(files, { level: 0 })], { type: "application/zip" }); // PNG is compressed already.
  }
}
