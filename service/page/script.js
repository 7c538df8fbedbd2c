// The forms: what is served, what is to be checked, one request at a time to POST /score.

import { hideAnswer, showAnswer } from "./answer.js";
import { drawn, PICTURES, TEXTS } from "./examples.js";
import { ask, calibrationOf, KeyWanted, useKey } from "./service.js";

const byId = (id) => document.getElementById(id);
const MODALITIES = ["text", "image"];
const models = new Map();
let running = null;

async function start() {
  let served;
  try {
    served = (await ask("models")).models;
  } catch (error) {
    if (error instanceof KeyWanted) wantKey(error);
    else byId("unserved").textContent = `${error.message} Load this page again in a moment.`;
    return;
  }
  byId("unserved").hidden = true;
  byId("key-form").hidden = true;
  for (const model of served) models.set(model.name, model);
  for (const modality of MODALITIES) {
    const select = byId(`${modality}-model`);
    const own = served.filter((model) => model.modality === modality);
    own.sort((a, b) => Number(b.default) - Number(a.default));
    select.replaceChildren(...own.map((model) => new Option(model.name, model.name)));
    byId(`${modality}-form`).hidden = own.length === 0;
    if (own.length > 0) describe(modality);
  }
}

/** Ask for a key: before anything is served, or when the one in use is no longer known. */
function wantKey(error) {
  const form = byId("key-form");
  const again = !form.hidden;
  byId("unserved").hidden = true;
  byId("key-hint").textContent =
    `${error.message} It is kept in this page's memory only, and gone when the page is.`;
  for (const modality of MODALITIES) byId(`${modality}-form`).hidden = true;
  // a link cannot carry a key
  for (const link of document.querySelectorAll(".keyless")) link.hidden = true;
  hideAnswer();
  form.hidden = false;
  byId("key").focus();
  if (again) byId("key").select();
  byId("announcement").textContent = byId("key-hint").textContent;
}

/** What the chosen model is, and which of its detectors cost extra. */
function describe(modality) {
  const model = models.get(byId(`${modality}-model`).value);
  const { input } = model;
  const reads =
    modality === "text"
      ? `It reads the first ${input.max_tokens} tokens.`
      : `It sees ${input.width} x ${input.height} pixels.`;
  byId(`${modality}-hint`).textContent = `${model.description} ${reads}`;
  const details = byId(`${modality}-form`).querySelector(".dear");
  const fieldset = details.querySelector("fieldset");
  fieldset.querySelectorAll("label").forEach((label) => label.remove());
  const dear = model.detectors.filter((detector) => detector.on_demand);
  details.hidden = dear.length === 0;
  for (const detector of dear) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = detector.name;
    const label = document.createElement("label");
    label.append(box, ` ${detector.name}`);
    fieldset.append(label);
  }
}

/** The primary detector first: it decides.  Null: no dear one is asked for. */
function wantedDetectors(modality) {
  const form = byId(`${modality}-form`);
  const dear = [...form.querySelectorAll(".dear input:checked")].map((box) => box.value);
  if (dear.length === 0) return null;
  const model = models.get(byId(`${modality}-model`).value);
  const plain = model.detectors.filter((detector) => !detector.on_demand).map((d) => d.name);
  return [...new Set([model.primary_detector, ...plain, ...dear])];
}

function parametersOf(modality) {
  const parameters = new URLSearchParams({ model: byId(`${modality}-model`).value });
  const detectors = wantedDetectors(modality);
  if (detectors !== null) parameters.set("detectors", detectors.join(","));
  return parameters;
}

async function score(modality, body, contentType) {
  running?.abort();
  const own = (running = new AbortController());
  // busy, not disabled: a disabled button drops the keyboard's focus
  for (const form of document.forms) form.classList.toggle("busy", form.id === `${modality}-form`);
  byId("announcement").textContent = "Checking.";
  byId("problem").hidden = true;
  try {
    const answer = await ask(`score?${parametersOf(modality)}`, {
      method: "POST",
      headers: { "Content-Type": contentType },
      body,
      signal: own.signal,
    });
    const histograms = await calibrationOf(answer.model.name, answer.model.version);
    if (running !== own) return;
    showAnswer(answer, modality, histograms);
  } catch (error) {
    if (error.name === "AbortError" || running !== own) return;
    if (error instanceof KeyWanted) wantKey(error);
    else showProblem(error);
  }
  byId(`${modality}-form`).classList.remove("busy");
}

function showProblem(error) {
  hideAnswer();
  byId("announcement").textContent = ""; // an alert is read out by itself
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
  byId("problem").scrollIntoView({ block: "nearest" });
}

function checkText() {
  const body = JSON.stringify({ inputs: [{ text: byId("text").value }] });
  score("text", body, "application/json");
}

/** As if it had been chosen by hand: the form shows it and can send it again. */
function checkFile(file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  byId("image").files = transfer.files;
  byId("image").dispatchEvent(new Event("change"));
  byId("image-form").requestSubmit();
}

function exampleButton(modality, label, take) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", take);
  byId(`${modality}-form`).querySelector(".examples").append(button);
}

for (const modality of MODALITIES) {
  byId(`${modality}-model`).addEventListener("change", () => describe(modality));
}
for (const [label, text] of TEXTS) {
  exampleButton("text", label, () => {
    byId("text").value = text;
    byId("text-form").requestSubmit();
  });
}
for (const [label, paint] of PICTURES) {
  exampleButton("image", label, async () => checkFile(await drawn(label, paint)));
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key").value = "";
  start();
});

byId("text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  checkText();
});

byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("text-form").requestSubmit();
  }
});

byId("image-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [file] = byId("image").files;
  if (file) score("image", file, file.type || "application/octet-stream");
});

byId("image").addEventListener("change", () => {
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  const [file] = byId("image").files;
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
});

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) checkFile(file);
});

// an image on the clipboard; a text is pasted into the field it is meant for
document.addEventListener("paste", (event) => {
  const image = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
  if (image === undefined || byId("image-form").hidden) return;
  event.preventDefault();
  checkFile(image);
});

start();
