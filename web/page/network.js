/** The network, as the page sees it: a worker that answers for one picture after the other. */

import { PageError, NETWORK_MESSAGES } from "./messages.js";

const FITS = ["crop", "pad", "stretch"];
const FILTERS = ["bicubic", "bilinear", "lanczos"];

/**
 * What `network.json` says of `network.onnx`.
 * @typedef {{
 *   name: string,
 *   class_names: string[],
 *   image_size: number,
 *   fit: "crop" | "pad" | "stretch",
 *   crop: number,
 *   resample: "bicubic" | "bilinear" | "lanczos",
 *   precision: string,
 *   trained_on: string,
 *   no_sign: null | {threshold: number, signs_rejected: number, others_accepted: number},
 *   sha256: string | undefined,
 * }} Settings
 */

/**
 * The network's answer for a picture: the probability of each class, and the time that it took.
 * @typedef {{probabilities: number[], milliseconds: number}} Reading
 */

/**
 * Loads `network.json`.
 * @returns {Promise<Settings>}
 * @throws {PageError} if there is none, or if it is damaged
 */
export async function loadSettings() {
  const response = await fetch("network.json", { cache: "no-cache" }).catch(() => {
    throw new PageError(NETWORK_MESSAGES.unreachable);
  });
  if (!response.ok) throw new PageError(NETWORK_MESSAGES.absent);
  const settings = await response.json().catch(() => null);
  if (!isComplete(settings)) throw new PageError(NETWORK_MESSAGES.settings);
  return settings;
}

function isComplete(settings) {
  return (
    Array.isArray(settings?.class_names) &&
    settings.class_names.length > 0 &&
    settings.class_names.every((name) => typeof name === "string") &&
    Number.isInteger(settings.image_size) &&
    settings.image_size > 0 &&
    settings.crop > 0 &&
    settings.crop <= 1 &&
    FITS.includes(settings.fit) &&
    FILTERS.includes(settings.resample)
  );
}

/** A network that is loaded and ready. */
export class Network {
  #worker;
  #waiting = new Map(); // promises by the number of the picture
  #count = 0;

  /**
   * Loads `network.onnx` in a worker.
   * @param {Settings} settings
   * @param {(share: number) => void} report is told how much has arrived, from 0 to 1
   * @returns {Promise<Network>}
   * @throws {PageError} if it cannot be loaded or does not fit the settings
   */
  static load(settings, report) {
    return new Promise((resolve, reject) => {
      const worker = new Worker("worker.js", { type: "module" });
      worker.onerror = () => reject(new PageError(NETWORK_MESSAGES.runtime));
      worker.onmessage = ({ data }) => {
        if (data.share !== undefined) report(data.share);
        else if (data.problem) reject(new PageError(NETWORK_MESSAGES[data.problem]));
        else resolve(new Network(worker, data.threads));
      };
      const { image_size: size, fit, crop, resample, class_names: names, sha256 } = settings;
      worker.postMessage({ preparation: { size, fit, crop, resample }, classes: names.length, sha256 });
    });
  }

  /** @param {number} threads that the network runs on */
  constructor(worker, threads) {
    this.threads = threads;
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#settle(data);
    worker.onerror = () => {
      for (const number of this.#waiting.keys()) this.#settle({ number, problem: "memory" });
    };
  }

  /**
   * Reads a picture, which is closed afterwards.
   * @param {ImageBitmap} bitmap
   * @returns {Promise<Reading>}
   * @throws {PageError} if the memory does not suffice, or the answer is no probabilities
   */
  read(bitmap) {
    const number = this.#count++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#worker.postMessage({ number, bitmap }, [bitmap]);
    });
  }

  #settle({ number, problem, ...reading }) {
    const { resolve, reject } = this.#waiting.get(number);
    this.#waiting.delete(number);
    if (problem) reject(new PageError(NETWORK_MESSAGES[problem]));
    else resolve(reading);
  }
}
