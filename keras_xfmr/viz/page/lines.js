"use strict";
// Draws weights, colours and lines. Knows no buttons.
//
// A part is {name, left, right, layers}: query tokens at the left, key tokens at the right. A layer
// is {scales, weights}: a number for each head, and in base64 a byte for each head, query and key,
// in this order. A weight is byte * scale.

const LEVELS = 48; // of opacity; the colour is set once for all lines of a level

function bytesOf(layer) {
  layer.bytes ??= Uint8Array.from(atob(layer.weights), (letter) => letter.charCodeAt(0));
  return layer.bytes;
}

function weightOf(part, layer, head, query, key) {
  const place = (head * part.left.length + query) * part.right.length + key;
  return bytesOf(layer)[place] * layer.scales[head];
}

// Neighbours have different colours: hues advance by the golden angle.
function colourOf(head, opacity = 1) {
  const lightness = getComputedStyle(document.documentElement).getPropertyValue("--lightness");
  return `hsl(${(212 + head * 137.508) % 360} 72% ${lightness} / ${opacity})`;
}

// An exponent below 1 makes faint weights visible: with 0.5 a weight of 0.01 has the opacity 0.1.
function opacityOf(weight, exponent) {
  return Math.min(1, Math.pow(weight, exponent));
}

// The lines of one head, a list for each level of opacity.
//
// `chosen` is null, or {side, index}, the only token whose lines are drawn.
function levelsOf(part, layer, head, chosen, { least, exponent }) {
  const levels = Array.from({ length: LEVELS + 1 }, () => []);
  for (let query = 0; query < part.left.length; query++) {
    if (chosen?.side === "left" && chosen.index !== query) continue;
    for (let key = 0; key < part.right.length; key++) {
      if (chosen?.side === "right" && chosen.index !== key) continue;
      const weight = weightOf(part, layer, head, query, key);
      if (weight < least) continue;
      levels[Math.ceil(opacityOf(weight, exponent) * LEVELS)].push([query, key]);
    }
  }
  return levels;
}

// Draws heads of a layer and returns how many lines they have.
//
// `box` has the size, the height of a row at each side, the width of a line, the smallest weight
// that gets a line, and the exponent of `opacityOf`.
function drawLines(canvas, part, layer, heads, chosen, box) {
  const ratio = window.devicePixelRatio;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.lineWidth = box.line;
  let count = 0;
  for (const head of heads) {
    levelsOf(part, layer, head, chosen, box).forEach((lines, level) => {
      context.strokeStyle = colourOf(head, level / LEVELS);
      count += lines.length;
      for (const [query, key] of lines) {
        context.beginPath();
        context.moveTo(0, (query + 0.5) * box.leftRow);
        context.lineTo(box.width, (key + 0.5) * box.rightRow);
        context.stroke();
      }
    });
  }
  return count;
}

// A background of one stripe for each head, as strong as its weight.
function stripesOf(heads, weights) {
  const stops = heads.map((head, place) => {
    const [from, to] = [place, place + 1].map((edge) => `${(100 * edge) / heads.length}%`);
    return `${colourOf(head, opacityOf(weights[place], 0.5))} ${from} ${to}`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
