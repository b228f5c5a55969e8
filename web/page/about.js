/** The section that says what the network is, and how often it is wrong about pictures without a sign. */

import { percent } from "./answer.js";
import { element } from "./elements.js";

const MOST_NAMES = 30; // of classes that are listed

const FITS = {
  crop: "the square in the middle of a picture",
  pad: "the whole picture, with grey beside its shorter side",
  stretch: "the whole picture, stretched to a square",
};

/**
 * Fills the section.
 * @param {import("./network.js").Settings} settings
 * @param {{threads: number, loadingTime: number}} session
 */
export function showAbout(settings, { threads, loadingTime }) {
  const { class_names: names, image_size: size } = settings;
  const more = names.length > MOST_NAMES ? ` and ${names.length - MOST_NAMES} more` : "";
  const facts = {
    Network: settings.name,
    "Trained on": settings.trained_on,
    Classes: `${names.length}: ${names.slice(0, MOST_NAMES).join(", ")}${more}`,
    Reads: `${FITS[settings.fit]}, at ${size}×${size} pixels`,
    "No sign": describeRejection(settings.no_sign),
    Precision: settings.precision,
    "Runs on": `this device, with ONNX Runtime Web on ${threads === 1 ? "one thread" : `${threads} threads`}`,
    Loaded: `in ${(loadingTime / 1000).toFixed(1)} s`,
  };
  const rows = Object.entries(facts).filter(([, fact]) => fact);
  document.getElementById("facts").replaceChildren(
    ...rows.flatMap(([term, fact]) => [element("dt", {}, term), element("dd", { dir: "auto" }, fact)]),
  );
  document.getElementById("about").hidden = false;
}

function describeRejection(rule) {
  if (!rule) return "never said: the network takes every picture for one of its classes";
  const { threshold, signs_rejected: rejected, others_accepted: accepted } = rule;
  return (
    `said when no class is at least ${percent(threshold)} probable. So ${percent(rejected)} of pictures of signs` +
    ` are called “No sign”, and ${percent(accepted)} of other pictures are taken for a sign`
  );
}
