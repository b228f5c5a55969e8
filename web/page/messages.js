/** All sentences of the page that say what went wrong, and what to do. */

const WRITE_AGAIN = "Write the page again with --mode=export --format=web.";
const COPY_BOTH = "Copy network.onnx and network.json from one folder that --mode=export --format=web wrote.";

/** An error whose message is shown in the page as it is. */
export class PageError extends Error {}

/**
 * Says what went wrong, whether the page knows of it or not.
 * @param {unknown} error
 */
export function sentenceOf(error) {
  if (error instanceof PageError) return error.message;
  console.error(error); // where it came from
  const words = error?.message ?? error; // of the browser
  return `Something went wrong that this page does not expect (${words}). Try again, or load the page again.`;
}

/** By the problems that `network.js` and `worker.js` name. */
export const NETWORK_MESSAGES = {
  absent:
    "There is no network in this folder yet, so no sign can be read. Collect pictures, train on them, and write" +
    " this page with --mode=export --format=web.",
  settings: `network.json is damaged. ${WRITE_AGAIN}`,
  missing: `network.onnx is missing beside this page. ${COPY_BOTH}`,
  damaged: `network.onnx is damaged, or is no network that this page can run. ${WRITE_AGAIN}`,
  different: `network.onnx and network.json do not belong together. ${COPY_BOTH}`,
  memory:
    "The network is too large for the memory that this browser gives to a page. Close other tabs, use a computer," +
    " or export it in int8.",
  unreachable: "The network could not be loaded, as the server does not answer. Start it again and reload this page.",
  cut: "The connection was cut while the network was loading. Load this page again.",
  numbers:
    "network.onnx answers with numbers that are no probabilities: its weights are damaged. Export the network again," +
    " or train it again.",
  runtime: `The folder runtime/ beside this page is incomplete, or its server forbids workers. ${WRITE_AGAIN}`,
};

/** By the names of the errors of `getUserMedia`. */
const CAMERA_MESSAGES = {
  NotAllowedError:
    "The camera was refused. Allow it for this page in the settings of the browser, and start it again.",
  NotFoundError: "There is no camera. Connect one and start it again, or choose pictures instead.",
  NotReadableError: "The camera is busy: another program is using it. Close that program and start it again.",
};
CAMERA_MESSAGES.SecurityError = CAMERA_MESSAGES.NotAllowedError;
CAMERA_MESSAGES.OverconstrainedError = CAMERA_MESSAGES.NotFoundError;
CAMERA_MESSAGES.AbortError = CAMERA_MESSAGES.NotReadableError;

export const CAMERA_INSECURE =
  "Browsers give a camera only to pages from https or from this machine. Open this page at https://… or at" +
  " http://127.0.0.1, or choose pictures instead.";
export const CAMERA_ENDED = "The camera stopped: it was unplugged, or taken back. Connect it and start it again.";
export const CAMERA_NEEDED = "Start the camera first.";
export const NOT_TAKEN = "The picture could not be taken. Stop the camera, start it and try again.";

/** @param {Error} error of `getUserMedia` */
export function cameraMessage(error) {
  return CAMERA_MESSAGES[error.name] ?? `The camera does not start (${error.message}). Connect it again.`;
}

/** @param {string} name of a file */
export function noPicture(name) {
  return `${name} is no picture that this browser can read. Choose a JPEG, PNG or WebP file.`;
}

/**
 * @param {string} name of a file
 * @param {number} pixels that it has
 * @param {number} limit on them
 */
export function tooLarge(name, pixels, limit) {
  const size = `${name} has ${Math.ceil(pixels / 1e6)} megapixels`;
  return `${size}, and this page reads at most ${limit / 1e6}. Make it smaller first.`;
}

/** @param {string} name of a file */
export function undecodable(name) {
  return `${name} is damaged, or too large for the memory of this browser. Save it again, smaller.`;
}

/**
 * @param {string} name of a class
 * @param {string} other name, of the class that has the folder
 */
export function sameFolder(name, other) {
  return `“${name}” would go into the same folder as “${other}”. Choose another name.`;
}

export const EMPTY_NAME = "A class needs a name. Type one.";
export const TWO_CLASSES = "Training needs at least two classes with pictures.";
