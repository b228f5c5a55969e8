/** Turns files into pictures. */

import { noPicture, PageError, tooLarge, undecodable } from "./messages.js";

const MOST_PIXELS = 64_000_000; // Decoded, they take 256 MB, about as much as a phone gives to a page.

/**
 * Decodes a file, upright and in sRGB.
 * @param {File} file
 * @returns {Promise<ImageBitmap>}
 * @throws {PageError} if it is no picture, too large or damaged
 */
export async function decode(file) {
  const pixels = await countPixels(file);
  if (pixels > MOST_PIXELS) throw new PageError(tooLarge(file.name, pixels, MOST_PIXELS));
  return createImageBitmap(file).catch(() => {
    throw new PageError(undecodable(file.name));
  });
}

/** Returns the number of pixels of a picture that is not decoded yet. */
async function countPixels(file) {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new PageError(noPicture(file.name)));
      image.src = url;
    });
    return image.naturalWidth * image.naturalHeight;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * Returns a small copy of a picture.
 * @param {ImageBitmap} bitmap
 * @param {number} largest side in pixels
 * @returns {HTMLCanvasElement}
 */
export function thumbnail(bitmap, largest) {
  const share = Math.min(largest / Math.max(bitmap.width, bitmap.height), 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.round(bitmap.width * share), 1);
  canvas.height = Math.max(Math.round(bitmap.height * share), 1);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}
