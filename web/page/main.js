/** Wires the page: the network, the camera and the three tabs. */

import { showAbout } from "./about.js";
import { Camera } from "./camera.js";
import { Collect } from "./collect.js";
import { acceptFiles, Gallery } from "./gallery.js";
import { LiveAnswer } from "./live.js";
import { NETWORK_MESSAGES, sentenceOf } from "./messages.js";
import { loadSettings, Network } from "./network.js";
import { makeTabs } from "./tabs.js";

const MOST_SUGGESTIONS = 9; // classes, one for each key

/** Starts everything, unless `check.js` has found that it cannot work. */
function start() {
  addEventListener("unhandledrejection", ({ reason }) => {
    const problem = document.getElementById("problem");
    problem.textContent = sentenceOf(reason);
    problem.hidden = false;
  });
  document.querySelector("main").hidden = false;
  document.querySelector(".tabs").hidden = false;
  const camera = new Camera();
  let tab = "";
  const collect = new Collect(camera, () => tab === "collect");
  const ready = loadNetwork(collect);

  const showTab = makeTabs((name) => {
    tab = name;
    document.getElementById("stage").hidden = name === "pictures";
    if (name === "pictures") camera.pause();
    else camera.resume();
  });

  const gallery = new Gallery(() => ready);
  acceptFiles((files) => {
    showTab("pictures");
    gallery.add(files);
  });
  readWhileRunning(camera, ready, () => tab === "camera" && !document.hidden);
}

/** Reads the camera whenever it runs, once the network is ready. Its answer goes when the camera stops. */
async function readWhileRunning(camera, ready, isShown) {
  const loaded = await ready;
  if (!loaded) return;
  const answer = new LiveAnswer(camera, loaded.network, loaded.settings);
  const follow = () => (camera.isRunning ? answer.run(isShown) : answer.clear());
  camera.addEventListener("change", follow);
  follow();
}

/** Loads the network, or says why there is none. Resolves to null without one. */
async function loadNetwork(collect) {
  const notice = document.getElementById("network-notice");
  const message = document.getElementById("network-message");
  const progress = document.getElementById("network-progress");
  notice.hidden = false;
  message.textContent = "Loading the network…";
  try {
    const start = performance.now();
    const settings = await loadSettings();
    document.title = document.getElementById("name").textContent = settings.name || document.title;
    if (settings.class_names.length <= MOST_SUGGESTIONS) collect.suggest(settings.class_names);
    progress.hidden = false;
    const network = await Network.load(settings, (share) => (progress.value = share));
    showAbout(settings, { threads: network.threads, loadingTime: performance.now() - start });
    notice.hidden = true;
    return { network, settings };
  } catch (error) {
    progress.hidden = true;
    message.textContent = sentenceOf(error);
    const isAbsent = message.textContent === NETWORK_MESSAGES.absent;
    notice.classList.toggle("problem", !isAbsent); // Collecting needs no network.
    return null;
  }
}

if (!document.documentElement.hasAttribute("data-problem")) start();
