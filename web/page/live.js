/** The tab of the camera: reads the guide square over and over, and speaks an answer that stays. */

import { Answer, percent, verdict } from "./answer.js";
import { sentenceOf } from "./messages.js";

const STEADY = 1000; // milliseconds that an answer must stay before it is spoken

/** The answer to what the camera sees. */
export class LiveAnswer {
  #camera;
  #network;
  #settings;
  #answer;
  #hint = document.getElementById("camera-hint");
  #announcement = document.getElementById("announcement");
  #candidate = { text: "", since: 0, isSpoken: false };
  #runs = 0;

  /**
   * @param {import("./camera.js").Camera} camera
   * @param {import("./network.js").Network} network
   * @param {import("./network.js").Settings} settings
   */
  constructor(camera, network, settings) {
    this.#camera = camera;
    this.#network = network;
    this.#settings = settings;
    this.#answer = new Answer(document.getElementById("camera-answer"), settings);
  }

  /**
   * Reads frames until the camera stops.
   * @param {() => boolean} isShown says whether the answer can be seen
   */
  async run(isShown) {
    const run = ++this.#runs;
    try {
      for await (const frame of this.#camera.frames()) {
        if (isShown()) {
          const reading = await this.#network.read(frame);
          if (run === this.#runs) this.#show(reading); // Meanwhile the camera may have stopped.
        } else frame.close();
      }
    } catch (error) {
      if (run === this.#runs) this.#camera.stop(sentenceOf(error));
    }
  }

  /** Takes the answer away, as the camera has stopped. */
  clear() {
    this.#runs++;
    this.#answer.hide();
    this.#hint.hidden = false;
    this.#candidate = { text: "", since: 0, isSpoken: false };
    this.#announcement.textContent = "";
  }

  #show(reading) {
    this.#answer.show(reading);
    this.#hint.hidden = true;
    this.#speak(verdict(reading.probabilities, this.#settings));
  }

  /** Gives an answer to screen readers once it has stayed a while, as it may change with every frame. */
  #speak({ text, probability }) {
    const now = performance.now();
    if (text !== this.#candidate.text) this.#candidate = { text, since: now, isSpoken: false };
    if (this.#candidate.isSpoken || now - this.#candidate.since < STEADY) return;
    this.#candidate.isSpoken = true;
    this.#announcement.textContent = `${text}, ${percent(probability)}`;
  }
}
