// Inputs to try: sentences written for this page, pictures drawn by it.

export const TEXTS = [
  ["booking a flight", "please book me a flight from boston to paris for next friday"],
  ["a blocked card", "my card was declined at the store, can you tell me why"],
  ["Darwin's animals", "which animals did darwin describe on the galapagos islands"],
  ["no words", "lorem qzx vvrk 0x3f plonk"],
];

const SIZE = 256;

function polygon(context, colour, points, unit = 1) {
  context.fillStyle = colour;
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x * unit, y * unit);
  context.closePath();
  context.fill();
}

function ground(context, top, bottom, from = 0, to = SIZE) {
  const gradient = context.createLinearGradient(0, from, 0, to);
  gradient.addColorStop(0, top);
  gradient.addColorStop(1, bottom);
  context.fillStyle = gradient;
  context.fillRect(0, from, SIZE, to - from);
}

const GARMENT = SIZE / 28; // drawn on the grid of a small garment picture, white on black

function trousers(context) {
  ground(context, "#000000", "#000000");
  polygon(context, "#c8c8c8", [[9, 1], [19, 1], [20.5, 27], [15.5, 27], [14.3, 8], [13.7, 8], [12.5, 27], [7.5, 27]], GARMENT);
  polygon(context, "#e6e6e6", [[9, 1], [19, 1], [19, 2.5], [9, 2.5]], GARMENT);
}

function shirt(context) {
  ground(context, "#000000", "#000000");
  polygon(context, "#bebebe", [[10, 2], [18, 2], [22, 4], [26.5, 10], [22.5, 12.5], [20.5, 9], [20.5, 26], [7.5, 26], [7.5, 9], [5.5, 12.5], [1.5, 10], [6, 4]], GARMENT);
  context.fillStyle = "#000000";
  context.beginPath();
  context.ellipse(14 * GARMENT, 2.2 * GARMENT, 3 * GARMENT, 2 * GARMENT, 0, 0, 2 * Math.PI);
  context.fill();
}

function airplane(context) {
  ground(context, "#5a96d7", "#9ad6ff");
  polygon(context, "#e1e4e8", [[20, 135], [45, 120], [200, 118], [235, 128], [240, 136], [200, 146], [45, 146]]);
  polygon(context, "#c8cdd4", [[20, 135], [22, 85], [40, 85], [70, 122]]);
  polygon(context, "#aab0b9", [[110, 134], [150, 132], [105, 200], [85, 200]]);
  polygon(context, "#b9bec6", [[120, 120], [150, 120], [125, 85], [112, 85]]);
  polygon(context, "#b4bac2", [[20, 136], [50, 136], [30, 155], [15, 155]]);
}

function ship(context) {
  ground(context, "#96b9dc", "#c0dadc", 0, 170);
  ground(context, "#285073", "#286584", 170, SIZE);
  polygon(context, "#282d3c", [[20, 150], [236, 145], [215, 190], [45, 190]]);
  polygon(context, "#962828", [[20, 150], [236, 150], [236, 156], [20, 156]]);
  polygon(context, "#ebebe6", [[60, 120], [150, 120], [150, 150], [60, 150]]);
  polygon(context, "#e1e1dc", [[75, 95], [130, 95], [130, 120], [75, 120]]);
  polygon(context, "#be3c28", [[95, 65], [115, 65], [115, 95], [95, 95]]);
  polygon(context, "#3c3c3c", [[178, 70], [183, 70], [183, 146], [178, 146]]);
}

function smiley(context) {
  ground(context, "#000000", "#000000");
  context.strokeStyle = context.fillStyle = "#ffffff";
  context.lineWidth = 16;
  const arc = (x, y, radius, from, to) => {
    context.beginPath();
    context.arc(x, y, radius, from, to);
  };
  arc(128, 128, 105, 0, 2 * Math.PI);
  context.stroke();
  arc(128, 130, 60, 0.35, Math.PI - 0.35);
  context.stroke();
  for (const x of [88, 168]) {
    arc(x, 95, 16, 0, 2 * Math.PI);
    context.fill();
  }
}

function checks(context) {
  const step = SIZE / 8;
  ground(context, "#000000", "#000000");
  context.fillStyle = "#e6e6e6";
  for (let x = 0; x < 8; x += 1)
    for (let y = 0; y < 8; y += 1) if ((x + y) % 2) context.fillRect(x * step, y * step, step, step);
}

export const PICTURES = [
  ["trousers", trousers],
  ["a T-shirt", shirt],
  ["an airplane", airplane],
  ["a ship", ship],
  ["a smiley", smiley],
  ["checks", checks],
];

/** A drawing as a PNG file. */
export async function drawn(name, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  paint(canvas.getContext("2d"));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], `${name}.png`, { type: "image/png" });
}
