// One answer: in words, on its calibration histogram, and every detector's in a table.

import { largeHistogram, smallHistogram } from "./histogram.js";

const byId = (id) => document.getElementById(id);
const number = (value) => String(Number(value.toPrecision(4)));
const small = (value) => String(Number(value.toPrecision(3)));
const percent = (share) => `${Number((100 * share).toPrecision(3))}\u00a0%`;

export function hideAnswer() {
  byId("answer").hidden = true;
}

/** Everything shown is set as text, never as markup. */
export function showAnswer(answer, modality, histograms) {
  const result = answer.results[0];
  const known = result.decision === "ID";
  const verdict = byId("verdict");
  verdict.className = known ? "known" : "unknown";
  verdict.textContent = known
    ? `The model knows this ${modality}: ${result.label}.`
    : `The model does not know this ${modality}.`;
  const guess = known
    ? `Its confidence in the label is ${percent(result.confidence)}.`
    : `Its guess would be ${result.label}; it means nothing here.`;
  byId("reason").textContent =
    `${guess} ${percent(result.p_value)} of the inputs it knows look at least this strange to ` +
    `${result.detector}, which decides (${answer.model.name} version ${answer.model.version}).`;
  byId("cut").hidden = result.truncated !== true;
  showFigure(result.detector, result.detectors[result.detector], histograms[result.detector]);
  const names = Object.keys(result.detectors).filter((name) => name !== result.detector);
  const rows = [result.detector, ...names].map((name) =>
    rowOf(name, result.detectors[name], histograms[name], name === result.detector),
  );
  byId("scores").tBodies[0].replaceChildren(...rows);
  byId("answer").hidden = false;
  byId("answer").scrollIntoView({ block: "nearest" });
  byId("announcement").textContent = `${verdict.textContent} ${byId("reason").textContent}`;
}

function showFigure(name, detector, histogram) {
  byId("figure").hidden = histogram === undefined;
  if (histogram === undefined) return;
  const size = histogram.counts.reduce((sum, count) => sum + count, histogram.below + histogram.above);
  const side = detector.score > detector.threshold ? "above" : "not above";
  const label =
    `Histogram of ${name}: this input scores ${number(detector.score)}, ${side} the threshold ` +
    `${number(detector.threshold)}.`;
  byId("picture").replaceChildren(largeHistogram(histogram, detector, label, number));
  byId("figure-words").textContent =
    `Bars: how ${name} scores ${size} inputs the model knows, held out for calibration. Right of the ` +
    `dashed line, the threshold, an input counts as unknown. Triangle: this input.`;
}

function rowOf(name, detector, histogram, decides) {
  const row = document.createElement("tr");
  row.classList.toggle("deciding", decides);
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = decides ? `${name} (decides)` : name;
  row.append(head);
  const values = [number(detector.score), number(detector.threshold), small(detector.p_value)];
  for (const value of values) row.insertCell().textContent = value;
  const finding = row.insertCell();
  finding.textContent = detector.decision === "ID" ? "known" : "unknown";
  finding.className = finding.textContent;
  const picture = row.insertCell();
  if (histogram !== undefined) picture.append(smallHistogram(histogram, detector));
  return row;
}
