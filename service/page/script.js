// One request at a time to POST /score; everything shown is set as text, never as markup.

const byId = (id) => document.getElementById(id);
const models = new Map();
let running = null;

/** The answer's JSON; an Error that says what the service says when it refuses. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `The service answers with status ${response.status}.`);
  return body;
}

async function start() {
  let served;
  try {
    served = (await ask("models")).models;
  } catch (error) {
    byId("unserved").textContent = `${error.message} Load this page again in a moment.`;
    return;
  }
  for (const model of served) models.set(model.name, model);
  byId("unserved").hidden = true;
  for (const modality of ["text", "image"]) {
    const select = byId(`${modality}-model`);
    const own = served.filter((model) => model.modality === modality);
    own.sort((a, b) => Number(b.default) - Number(a.default));
    for (const model of own) select.add(new Option(model.name, model.name));
    byId(`${modality}-form`).hidden = own.length === 0;
    select.addEventListener("change", () => describe(modality));
    if (own.length > 0) describe(modality);
  }
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
  const fieldset = byId(`${modality}-form`).querySelector(".dear");
  fieldset.querySelectorAll("label").forEach((label) => label.remove());
  const dear = model.detectors.filter((detector) => detector.on_demand);
  fieldset.hidden = dear.length === 0;
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
    show(answer, modality);
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("answer").hidden = true;
    byId("announcement").textContent = ""; // an alert is read out by itself
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
    byId("problem").scrollIntoView({ block: "nearest" });
  }
  byId(`${modality}-form`).classList.remove("busy");
}

function show(answer, modality) {
  const result = answer.results[0];
  const known = result.decision === "ID";
  const verdict = byId("verdict");
  verdict.className = known ? "known" : "unknown";
  verdict.textContent = known
    ? `The model knows this ${modality}: ${result.label}.`
    : `The model does not know this ${modality}.`;
  const share = percent(result.p_value);
  const guess = known
    ? `Its confidence in the label is ${percent(result.confidence)}.`
    : `Its guess would be ${result.label}; it means nothing here.`;
  byId("reason").textContent =
    `${guess} ${share} of the inputs it knows look at least this strange to ${result.detector}, ` +
    `which decides (${answer.model.name} version ${answer.model.version}).`;
  byId("cut").hidden = result.truncated !== true;
  const rows = Object.entries(result.detectors).map(([name, detector]) => {
    const row = document.createElement("tr");
    row.classList.toggle("deciding", name === result.detector);
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name === result.detector ? `${name} (decides)` : name;
    row.append(head);
    const values = [number(detector.score), number(detector.threshold), number(detector.p_value)];
    for (const value of values) row.insertCell().textContent = value;
    const finding = row.insertCell();
    finding.textContent = detector.decision === "ID" ? "known" : "unknown";
    finding.className = finding.textContent;
    return row;
  });
  byId("scores").tBodies[0].replaceChildren(...rows);
  byId("answer").hidden = false;
  byId("answer").scrollIntoView({ block: "nearest" });
  byId("announcement").textContent = `${verdict.textContent} ${byId("reason").textContent}`;
}

const number = (value) => String(Number(value.toPrecision(4)));
const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;

byId("text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = JSON.stringify({ inputs: [{ text: byId("text").value }] });
  score("text", body, "application/json");
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
  if (event.dataTransfer.files.length === 0) return;
  byId("image").files = event.dataTransfer.files;
  byId("image").dispatchEvent(new Event("change"));
  byId("image-form").requestSubmit();
});

start();
