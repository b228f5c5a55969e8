/** The camera and its view, with the square of which pictures are taken. */

import { CAMERA_ENDED, CAMERA_INSECURE, cameraMessage, NOT_TAKEN, PageError } from "./messages.js";

const GUIDE = 0.76; // side of the guide square as a share of the view's; style.css draws it
const FRAMES_PER_SECOND = 10;

/** A camera that the user starts, stops and chooses. It tells of its changes by the event `change`. */
export class Camera extends EventTarget {
  #video = document.getElementById("video");
  #stage = document.getElementById("stage");
  #message = document.getElementById("camera-message");
  #cameras = document.getElementById("cameras");
  #stream = null;
  #starts = 0;
  #isRunning = false;
  #isPaused = false;

  constructor() {
    super();
    document.getElementById("start-camera").onclick = () => this.start(this.#cameras.value);
    document.getElementById("stop-camera").onclick = () => this.stop();
    this.#cameras.onchange = () => this.start(this.#cameras.value);
  }

  /** Whether pictures arrive. While the camera starts, there are none yet. */
  get isRunning() {
    return this.#isRunning;
  }

  /**
   * Starts a camera, and says why if it does not start.
   * @param {string} id of the camera, or "" for the one that faces the user
   */
  async start(id) {
    this.stop();
    this.#isPaused = false;
    const start = ++this.#starts;
    try {
      const stream = await openCamera(id);
      // Meanwhile another camera may have been chosen, or the tab of pictures.
      if (start !== this.#starts) return stopStream(stream);
      this.#stream = stream;
      stream.getVideoTracks()[0].onended = () => this.stop(CAMERA_ENDED);
      this.#video.srcObject = stream;
      await this.#video.play();
      await this.#listCameras();
    } catch (error) {
      if (start !== this.#starts) return;
      this.#cameras.replaceChildren(); // so that the next start tries any camera
      this.stop(navigator.mediaDevices ? cameraMessage(error) : CAMERA_INSECURE);
      return;
    }
    if (start !== this.#starts) return;
    this.#isRunning = true;
    this.#show();
  }

  /** Stops the camera, and says why if it was not the user's wish. */
  stop(message = "") {
    this.#starts++;
    if (this.#stream) stopStream(this.#stream);
    this.#stream = null;
    this.#isRunning = false;
    this.#video.srcObject = null;
    this.#message.textContent = message;
    this.#show();
  }

  /** Stops the camera until `resume`. */
  pause() {
    this.#isPaused ||= this.#stream !== null;
    this.stop();
  }

  /** Starts the camera again if `pause` stopped it. */
  resume() {
    if (this.#isPaused) this.start(this.#cameras.value);
  }

  #show() {
    this.#stage.classList.toggle("running", this.isRunning);
    // Cameras of computers do not say where they face; they face the user.
    const facing = this.#stream?.getVideoTracks()[0].getSettings().facingMode;
    this.#video.classList.toggle("mirrored", facing !== "environment");
    this.dispatchEvent(new Event("change"));
  }

  async #listCameras() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter((device) => device.kind === "videoinput");
    const current = this.#stream?.getVideoTracks()[0].getSettings().deviceId;
    this.#cameras.replaceChildren(
      ...cameras.map(({ label, deviceId }, i) => {
        const option = new Option(label || `Camera ${i + 1}`, deviceId);
        option.selected = deviceId === current;
        return option;
      }),
    );
    document.getElementById("camera-choice").hidden = cameras.length < 2;
  }

  /** Yields what is inside of the guide square, some ten times a second, until this camera stops. */
  async *frames() {
    const stream = this.#stream;
    while (this.#stream === stream && stream) {
      const next = performance.now() + 1000 / FRAMES_PER_SECOND;
      await nextFrame(this.#video);
      if (this.#stream !== stream) return;
      const { left, top, side } = this.#guideSquare();
      yield await createImageBitmap(this.#video, left, top, side, side);
      await new Promise((resolve) => setTimeout(resolve, next - performance.now()));
    }
  }

  /**
   * Takes a picture of what is inside of the guide square.
   * @param {number} largest side in pixels
   * @returns {Promise<Blob>} PNG
   * @throws {PageError} if the browser gives none
   */
  picture(largest) {
    const { left, top, side } = this.#guideSquare();
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.min(side, largest);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#video, left, top, side, side, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve, reject) => {
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new PageError(NOT_TAKEN))), "image/png");
    });
  }

  /** Returns where the guide square lies in the video, in pixels. The view shows the centre of the video. */
  #guideSquare() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const side = Math.round(Math.min(width, height) * GUIDE);
    return { left: Math.round((width - side) / 2), top: Math.round((height - side) / 2), side };
  }
}

function openCamera(id) {
  const choice = id ? { deviceId: { exact: id } } : { facingMode: "user" };
  return navigator.mediaDevices.getUserMedia({
    video: { ...choice, width: { ideal: 1280 }, height: { ideal: 720 } },
  });
}

function stopStream(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
}
