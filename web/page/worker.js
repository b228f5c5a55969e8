/** The worker that prepares pictures and runs the network, so that the page stays fluid. */

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { fitSquare } from "./resample.js";

const MOST_THREADS = 4; // More than the fast cores of a phone make it slower.

ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;

let session;
let preparation;

/** An error that one of `NETWORK_MESSAGES` explains. */
class Problem extends Error {}

onmessage = async ({ data }) => {
  try {
    if (data.preparation) {
      await load(data);
      postMessage({ threads: ort.env.wasm.numThreads });
    } else {
      postMessage({ number: data.number, ...(await answer(data.bitmap)) });
    }
  } catch (error) {
    const problem = error instanceof Problem ? error.message : runtimeProblem(error);
    postMessage({ number: data.number, problem });
  }
};

/** Tells a lack of memory from a damaged file, by the error of the runtime. */
function runtimeProblem(error) {
  const lacksMemory = /out of memory|alloc|array buffer|array length/i.test(String(error?.message ?? error));
  return lacksMemory ? "memory" : "damaged";
}

/** Loads the network, and lets it answer once, as the first answer takes longest. */
async function load(settings) {
  preparation = settings.preparation;
  const bytes = await download("network.onnx");
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await checkDigest(bytes, settings.sha256);
  const { size } = preparation;
  const probabilities = await run(new Uint8Array(size * size * 3)).catch((error) => {
    throw error instanceof Problem ? error : new Problem("different");
  });
  if (probabilities.length !== settings.classes) throw new Problem("different");
}

/** Checks that this is the file of which `network.json` speaks. Another may have the same shapes, and other classes. */
async function checkDigest(bytes, expected) {
  // Older pages state no checksum, and pages from http cannot compute one.
  if (!expected || !crypto.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const text = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (text !== expected) throw new Problem("different");
}

/** Downloads a file and tells the page how far it is. */
async function download(path) {
  const response = await fetch(path, { cache: "no-cache" }).catch(() => {
    throw new Problem("unreachable");
  });
  if (!response.ok) throw new Problem("missing");
  const total = Number(response.headers.get("Content-Length"));
  const pieces = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read().catch(() => {
      throw new Problem("cut");
    });
    if (done) break;
    pieces.push(value);
    received += value.length;
    if (total) postMessage({ share: Math.min(received / total, 1) });
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** Returns the probabilities for a square, RGB [size, size, 3]. */
async function run(square) {
  const { size } = preparation;
  const images = new ort.Tensor("uint8", square, [1, size, size, 3]);
  const outputs = await session.run({ images }, ["probabilities"]);
  const probabilities = Array.from(outputs.probabilities.data);
  if (!probabilities.every(Number.isFinite)) throw new Problem("numbers");
  return probabilities;
}

async function answer(bitmap) {
  const start = performance.now();
  const square = fitSquare(pictureOf(bitmap), preparation);
  bitmap.close();
  const probabilities = await run(square);
  return { probabilities, milliseconds: performance.now() - start };
}

/**
 * Returns a picture whose pieces are drawn on white when they are read.
 * @param {ImageBitmap} bitmap
 * @returns {import("./resample.js").Picture}
 */
function pictureOf(bitmap) {
  const read = (x, y, width, height) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, x, y, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
  return { width: bitmap.width, height: bitmap.height, read };
}
