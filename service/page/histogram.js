// A score on the histogram of the calibration scores.  Shapes and strokes differ, not colours alone.

const SVG = "http://www.w3.org/2000/svg";
const SMALL = { width: 160, height: 32, foot: 8, side: 8 };
const LARGE = { width: 640, height: 180, foot: 56, side: 12 };

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** Score -> x.  What lies far outside is drawn at the edge, and said to lie beyond it. */
function scaleOf(histogram, detector, size) {
  const width = histogram.high - histogram.low;
  const reach = (value) => Math.min(Math.max(value, histogram.low - width), histogram.high + width);
  const marks = [reach(detector.score), reach(detector.threshold)];
  const low = Math.min(histogram.low, ...marks);
  const high = Math.max(histogram.high, ...marks);
  const inner = size.width - 2 * size.side;
  const x = (value) =>
    size.side + (inner * (Math.min(Math.max(value, low), high) - low)) / (high - low);
  return { x, beyond: detector.score > high ? 1 : detector.score < low ? -1 : 0 };
}

function bars(histogram, x, size) {
  const floor = size.height - size.foot;
  const tallest = Math.max(...histogram.counts, 1);
  const step = (histogram.high - histogram.low) / histogram.counts.length;
  return histogram.counts
    .map((count, index) => {
      if (count === 0) return "";
      const left = x(histogram.low + index * step);
      const right = x(histogram.low + (index + 1) * step);
      const top = floor - Math.max(1, (count / tallest) * (floor - 4));
      return `M${left.toFixed(2)} ${floor}V${top.toFixed(2)}H${right.toFixed(2)}V${floor}Z`;
    })
    .join("");
}

function base(histogram, detector, size) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  svg.setAttribute("width", size.width);
  svg.setAttribute("height", size.height);
  svg.classList.add("histogram");
  const { x, beyond } = scaleOf(histogram, detector, size);
  const floor = size.height - size.foot;
  const threshold = x(detector.threshold);
  const score = x(detector.score);
  draw(svg, "rect", {
    class: "strange", x: threshold, y: 0, width: Math.max(0, size.width - threshold), height: floor,
  });
  draw(svg, "path", { class: "bars", d: bars(histogram, x, size) });
  draw(svg, "path", { class: "axis", d: `M0 ${floor}H${size.width}` });
  draw(svg, "path", { class: "threshold", d: `M${threshold} 0V${floor}` });
  const half = size.foot > 10 ? 7 : 5;
  const marker = draw(svg, "g", { class: detector.decision === "ID" ? "known" : "unknown" });
  draw(marker, "path", { class: "stem", d: `M${score} 0V${floor}` });
  const point =
    beyond === 0
      ? `M${score - half} ${floor + half + 1}L${score} ${floor}L${score + half} ${floor + half + 1}Z`
      : `M${score} ${floor - half}L${score + beyond * half} ${floor}L${score} ${floor + half}Z`;
  draw(marker, "path", { class: "point", d: point });
  return { svg, floor, threshold, score, beyond };
}

/** For a row of the table, whose cells say the same in numbers. */
export function smallHistogram(histogram, detector) {
  const { svg } = base(histogram, detector, SMALL);
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

/** With words at its marks; `label` is what it shows, for who does not see it. */
export function largeHistogram(histogram, detector, label, number) {
  const size = LARGE;
  const { svg, floor, threshold, score, beyond } = base(histogram, detector, size);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  // a text begins, ends or stands in the middle of its mark, so that it stays inside
  const anchor = (x) => (x < 120 ? "start" : x > size.width - 120 ? "end" : "middle");
  const write = (x, line, text, kind) =>
    draw(svg, "text", { x, y: floor + 26 + 23 * line, "text-anchor": anchor(x), class: kind }, text);
  const crowded = Math.abs(score - threshold) < 330;
  const where = beyond > 0 ? ", further right" : beyond < 0 ? ", further left" : "";
  write(score, 0, `this input ${number(detector.score)}${where}`, detector.decision === "ID" ? "known" : "unknown");
  write(threshold, crowded ? 1 : 0, `threshold ${number(detector.threshold)}`, "faint");
  return svg;
}
