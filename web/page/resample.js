/**
 * Makes a picture the square that the network reads, to the bit as `resnet.images.fit_square` does.
 *
 * The arithmetic is that of Pillow's `Image.resize`: an antialiased filter, one pass across and one down, each
 * in whole numbers and each rounded to 8 bits.
 */

const PRECISION = 22; // bits behind the point in a weight
const GREY = 128; // beside a padded picture
const PIECE = 4_000_000; // pixels that are read at once, so that a large picture takes little memory

/**
 * A picture that is read piece by piece. `read` returns RGBA [height, width, 4] of a rectangle; what the
 * fourth channel holds does not matter.
 * @typedef {{
 *   width: number,
 *   height: number,
 *   read: (x: number, y: number, width: number, height: number) => Uint8Array | Uint8ClampedArray,
 * }} Picture
 */

/**
 * What a network needs done to its pictures, as `resnet.preprocessing.Preprocessing` says it.
 * @typedef {{
 *   size: number,
 *   crop: number,
 *   fit: "crop" | "pad" | "stretch",
 *   resample: "bicubic" | "bilinear" | "lanczos",
 * }} Preparation
 */

/**
 * The weights of the pixels that make each of `count` new ones: `values` holds `width` of them for each, of
 * which `lengths[i]` count, from the pixel `starts[i]` on.
 * @typedef {{count: number, width: number, starts: Int32Array, lengths: Int32Array, values: Int32Array}} Weights
 */

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { support: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { support: 3, weight: (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Keys' cubic with a = -0.5, for x of at least 0. */
function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/**
 * Scales a picture and cuts out its centre.
 * @param {Picture} picture
 * @param {Preparation} preparation
 * @returns {Uint8Array} RGB [size, size, 3]
 */
export function fitSquare(picture, { size, crop, fit, resample }) {
  const filter = FILTERS[resample];
  // In floating point 64 / (64 / 72) is a little less than 72.
  const side = Math.trunc(Math.round((size / crop) * 1e6) / 1e6);
  if (fit === "stretch" && picture.width < side && side < picture.height) {
    const whole = { left: 0, top: 0, right: picture.width, bottom: picture.height };
    picture = resized(picture, picture.width, side, whole, filter);
  }
  const { width, height } = scaledSize(picture, side, fit);
  const across = visible(width, size);
  const down = visible(height, size);
  const box = {
    left: (across.first * picture.width) / width,
    top: (down.first * picture.height) / height,
    right: Math.min((across.last * picture.width) / width, picture.width),
    bottom: Math.min((down.last * picture.height) / height, picture.height),
  };
  const part = resized(picture, across.last - across.first, down.last - down.first, box, filter);
  return onGrey(part, size, across.first - across.start, down.first - down.start);
}

/** Returns the size to which the picture is scaled before its centre is cut out. */
function scaledSize(picture, side, fit) {
  if (fit === "stretch") return { width: side, height: side };
  const choose = fit === "crop" ? Math.min : Math.max;
  const whole = choose(picture.width, picture.height);
  return {
    width: Math.max(Math.floor((side * picture.width) / whole), 1),
    height: Math.max(Math.floor((side * picture.height) / whole), 1),
  };
}

/** Returns where the centre of `size` pixels starts in `length`, and which pixels of it there are. */
function visible(length, size) {
  const start = roundHalfToEven((length - size) / 2);
  return { start, first: Math.max(start, 0), last: Math.min(start + size, length) };
}

function roundHalfToEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Puts a picture, `left` and `top` from the corner, on a grey square; returns RGB [size, size, 3]. */
function onGrey(part, size, left, top) {
  const pixels = part.read(0, 0, part.width, part.height);
  const square = new Uint8Array(size * size * 3).fill(GREY);
  for (let y = 0; y < part.height; y++) {
    for (let x = 0; x < part.width; x++) {
      const from = (y * part.width + x) * 4;
      const to = ((y + top) * size + x + left) * 3;
      for (let channel = 0; channel < 3; channel++) square[to + channel] = pixels[from + channel];
    }
  }
  return square;
}

/**
 * Returns a picture in memory.
 * @param {Uint8Array | Uint8ClampedArray} pixels RGBA [height, width, 4]
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function pictureInMemory(pixels, width, height) {
  const read = (x, y, columns, rows) => {
    if (columns === width) return pixels.subarray(y * width * 4, (y + rows) * width * 4);
    const piece = new Uint8Array(columns * rows * 4);
    for (let row = 0; row < rows; row++) {
      const start = ((y + row) * width + x) * 4;
      piece.set(pixels.subarray(start, start + columns * 4), row * columns * 4);
    }
    return piece;
  };
  return { width, height, read };
}

/** Resizes the part of a picture inside of `box`, as Pillow's `Image.resize` does. */
function resized(picture, width, height, box, filter) {
  const acrossStays = width === picture.width && box.left === 0 && box.right === width;
  const downStays = height === picture.height && box.top === 0 && box.bottom === height;
  const across = acrossStays ? null : weightsFor(picture.width, box.left, box.right, width, filter);
  const down = downStays ? null : weightsFor(picture.height, box.top, box.bottom, height, filter);
  const removed = { rows: picture.height - height, columns: picture.width - width };
  // The passes do not commute, as each one rounds. Pillow 13 takes this order, older versions always go across first.
  const downFirst = removed.rows > 0 && removed.rows > 2 * removed.columns;
  const passes = [
    (from) => (across ? resizedAcross(from, across, downFirst ? null : down) : from),
    (from) => (down ? resizedDown(from, down, downFirst ? across : null) : from),
  ];
  if (downFirst) passes.reverse();
  return passes.reduce((from, pass) => pass(from), picture);
}

/**
 * Computes the weights of one direction, in whole numbers of 2**-22.
 * @param {number} length of the picture in pixels
 * @param {number} start where the part begins
 * @param {number} end where it ends
 * @param {number} count how many pixels it becomes
 * @param {{support: number, weight: (x: number) => number}} filter
 * @returns {Weights}
 */
function weightsFor(length, start, end, count, filter) {
  const origin = Math.fround(start); // Pillow holds the box in float32.
  const scale = Math.fround(Math.fround(end) - origin) / count;
  const widening = Math.max(scale, 1);
  const support = filter.support * widening;
  const width = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(count);
  const lengths = new Int32Array(count);
  const values = new Int32Array(count * width);
  for (let i = 0; i < count; i++) {
    const centre = origin + (i + 0.5) * scale;
    starts[i] = Math.max(Math.trunc(centre - support + 0.5), 0);
    lengths[i] = Math.min(Math.trunc(centre + support + 0.5), length) - starts[i];
    const exact = Array.from({ length: lengths[i] }, (_, k) =>
      filter.weight((k + starts[i] - centre + 0.5) * (1 / widening)),
    );
    const sum = exact.reduce((total, weight) => total + weight, 0);
    exact.forEach((weight, k) => (values[i * width + k] = fixedPoint(sum === 0 ? weight : weight / sum)));
  }
  return { count, width, starts, lengths, values };
}

function fixedPoint(weight) {
  return Math.trunc(weight * 2 ** PRECISION + (weight < 0 ? -0.5 : 0.5));
}

/** Returns the first pixel that `weights` need and how many, or all of `length` without weights. */
function needed(weights, length) {
  if (!weights) return { first: 0, count: length };
  const { starts, lengths, count } = weights;
  return { first: starts[0], count: starts[count - 1] + lengths[count - 1] - starts[0] };
}

/** Makes the pass across, over those rows that `down`, the pass to come, will need. */
function resizedAcross(picture, across, down) {
  const rows = needed(down, picture.height);
  const columns = needed(across, picture.width);
  const target = new Uint8Array(rows.count * across.count * 4);
  const rowsAtOnce = Math.max(Math.floor(PIECE / columns.count), 1);
  for (let row = 0; row < rows.count; row += rowsAtOnce) {
    const lines = Math.min(rowsAtOnce, rows.count - row);
    const piece = picture.read(columns.first, rows.first + row, columns.count, lines);
    const from = { pixels: piece, line: columns.count * 4, step: 4, first: columns.first };
    const to = { pixels: target.subarray(row * across.count * 4), line: across.count * 4, step: 4 };
    addUp(from, to, lines, across);
  }
  const { read } = pictureInMemory(target, across.count, rows.count);
  // Rows keep their numbers, which the weights of the pass down refer to.
  return {
    width: across.count,
    height: picture.height,
    read: (x, y, width, height) => read(x, y - rows.first, width, height),
  };
}

/** Makes the pass down, over those columns that `across`, the pass to come, will need. */
function resizedDown(picture, down, across) {
  const rows = needed(down, picture.height);
  const columns = needed(across, picture.width);
  const target = new Uint8Array(down.count * columns.count * 4);
  const columnsAtOnce = Math.max(Math.floor(PIECE / rows.count), 1);
  for (let column = 0; column < columns.count; column += columnsAtOnce) {
    const lines = Math.min(columnsAtOnce, columns.count - column);
    const piece = picture.read(columns.first + column, rows.first, lines, rows.count);
    const from = { pixels: piece, line: 4, step: lines * 4, first: rows.first };
    const to = { pixels: target.subarray(column * 4), line: 4, step: columns.count * 4 };
    addUp(from, to, lines, down);
  }
  const { read } = pictureInMemory(target, columns.count, down.count);
  return {
    width: picture.width,
    height: down.count,
    read: (x, y, width, height) => read(x - columns.first, y, width, height),
  };
}

/**
 * Adds up weighted pixels along each of `lines` lines. `line` and `step` are the bytes from one line, and from
 * one pixel of a line, to the next.
 */
function addUp(from, to, lines, { count, width, starts, lengths, values }) {
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < count; i++) {
      let red = 2 ** (PRECISION - 1);
      let green = red;
      let blue = red;
      let at = line * from.line + (starts[i] - from.first) * from.step;
      for (let k = i * width; k < i * width + lengths[i]; k++, at += from.step) {
        const weight = values[k];
        red += from.pixels[at] * weight;
        green += from.pixels[at + 1] * weight;
        blue += from.pixels[at + 2] * weight;
      }
      const target = line * to.line + i * to.step;
      to.pixels[target] = toByte(red);
      to.pixels[target + 1] = toByte(green);
      to.pixels[target + 2] = toByte(blue);
    }
  }
}

function toByte(sum) {
  const level = sum >> PRECISION;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}
