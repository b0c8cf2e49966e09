// An answer of POST /classify -> what the page shows of it.
const element = id => document.getElementById(id);
const UNSURE = {
  no_figure: "There is no digit in this picture, so the answer means nothing.",
  several_figures: "There are several digits in this picture. The model knows only one at a time: the answer is about one of them.",
  low_probability: "The model is not sure: do not rely on this answer.",
};
const LEAST = 0.01;  // a part that moves the probability by less decides nothing

const percent = p => (100 * p).toFixed(1) + " %";
const milliseconds = t => (t < 10 ? t.toFixed(1) : t.toFixed(0)) + "\u00a0ms";

// Returns the answer in one sentence. `total` is the time in milliseconds until it was here, `note` why there is no map.
export function showAnswer(body, total, note) {
  const best = body.predictions[0];
  element("unsure").hidden = !body.unsure;
  element("unsure").textContent = body.unsure ? UNSURE[body.unsure] ?? `This answer should not be relied on: ${body.unsure}.` : "";
  element("answer").querySelector("tbody").replaceChildren(...body.predictions.map(row));
  element("explained").hidden = !body.seen;
  element("where").textContent = note;
  if (body.seen) explain(body, best);
  const parts = body.milliseconds;
  element("times").textContent = `Answered after ${milliseconds(total)}` + (parts
    ? `: decoding ${milliseconds(parts.decode)}, waiting ${milliseconds(parts.queue)}, computing ${milliseconds(parts.compute)}; `
      + `finding where it looked ${milliseconds(parts.explain)}.` : ".");
  return `${best.label}: ${percent(best.probability)}`;
}

function row({label, probability}) {
  const line = document.createElement("tr"), bar = document.createElement("div");
  const head = line.appendChild(document.createElement("th"));
  head.scope = "row";
  head.textContent = label;
  bar.className = "bar";
  bar.style.width = 100 * probability + "%";
  line.insertCell().append(bar);
  line.insertCell().textContent = percent(probability);
  return line;
}

function explain({seen, occlusion}, {label, probability}) {
  for (const image of document.querySelectorAll("#explained img")) image.src = "data:image/png;base64," + seen;
  const rows = occlusion.length, columns = occlusion[0].length;
  const most = Math.max(...occlusion.flat());
  const row = occlusion.findIndex(falls => falls.includes(most)), column = occlusion[row].indexOf(most);
  element("looked").hidden = most < LEAST;
  element("where").textContent = most < LEAST
    ? "No single part decides: with any part covered, the answer stays the same."
    : `Red: the parts without which “${label}” is less probable. It needs the ${place(row, rows, column, columns)} most: `
      + `with that covered, ${percent(probability)} become ${percent(Math.max(0, probability - most))}.`;
  const canvas = element("looked").querySelector("canvas"), pen = canvas.getContext("2d");
  canvas.width = columns;
  canvas.height = rows;
  const pixels = pen.createImageData(columns, rows);
  occlusion.flat().forEach((fall, i) =>
    pixels.data.set([255, 40, 0, fall < LEAST ? 0 : Math.round(200 * fall / most)], 4 * i));
  pen.putImageData(pixels, 0, 0);
}

function place(row, rows, column, columns) {
  const third = (at, of) => Math.min(2, Math.floor(3 * (at + 0.5) / of));
  const words = [["upper", "", "lower"][third(row, rows)], ["left", "", "right"][third(column, columns)]];
  return words.filter(Boolean).join(" ") + (words.join("") ? " part" : "middle");
}
