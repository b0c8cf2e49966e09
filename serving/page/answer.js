// Answers of the service -> what the page shows of them, in words first.
const element = id => document.getElementById(id);
const UNSURE = {  // by the service's reason: the headline, and what it means
  no_figure: ["No digit found", "There is no digit in this picture, so the answer means nothing."],
  several_figures: ["Several digits",
    "There are several digits in this picture. The model knows only one at a time: the answer is about one of them."],
  low_probability: ["Not sure", "The model is not sure: do not rely on this answer."],
  unfamiliar: ["Something unfamiliar", "This picture is unlike those that the model learnt from: it may show none of these."],
};
const NONE = ["none", "other"];  // the class of pictures of none of the others
const WORDS = [[0.99, "almost certainly"], [0.9, "very probably"], [0.6, "probably"], [0, "perhaps"]];
const LEAST = 0.01;  // a part that moves the probability by less decides nothing

const milliseconds = t => (t < 10 ? t.toFixed(1) : t.toFixed(0)) + "\u00a0ms";

export function percent(p) {
  const text = p > 0.999 ? "> 99.9 %" : p < 0.001 ? "< 0.1 %" : (100 * p).toFixed(1) + " %";
  return text.replaceAll(" ", "\u00a0");  // in one piece
}

export function make(name, text = "", ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// The headline as nodes: the class in large letters and how sure it is, or that it is not.
export function headline({predictions: [best], unsure}) {
  if (unsure) return [make("strong", UNSURE[unsure]?.[0] ?? "Not sure")];
  const word = WORDS.find(([least]) => best.probability >= least)[1];
  const name = NONE.includes(best.label.toLowerCase()) ? "None of these" : best.label;
  return [make("strong", name), ` ${word} (${percent(best.probability)})`];
}

// `total` is the time in milliseconds until the answer was here, `notes` are sentences about how it was asked.
export function showAnswer(body, total, notes) {
  const [best] = body.predictions;
  element("unsure").hidden = !body.unsure;
  element("unsure").textContent = body.unsure
    ? (UNSURE[body.unsure]?.[1] ?? `This answer should not be relied on: ${body.unsure}.`) : "";
  element("answer").querySelector("caption").textContent = body.unsure ? "What it could be" : "The most probable classes";
  element("answer").querySelector("caption").className = body.unsure ? "" : "hidden";
  element("answer").querySelector("tbody").replaceChildren(...body.predictions.map(row));
  element("explained").hidden = !body.seen;
  element("where").textContent = notes.where;
  if (body.seen) explain(body, best);
  const parts = body.milliseconds;
  element("times").textContent = `Answered after ${milliseconds(total)}` + (parts
    ? `: decoding ${milliseconds(parts.decode)}, waiting ${milliseconds(parts.queue)}, computing ${milliseconds(parts.compute)}; `
      + `finding where it looked ${milliseconds(parts.explain)}.` : ".") + notes.sent;
}

function row({label, probability}) {
  const bar = make("div"), head = make("th", label);
  head.scope = "row";
  bar.className = "bar";
  bar.style.width = 100 * probability + "%";
  const track = make("div", "", bar);
  track.className = "track";
  return make("tr", "", head, make("td", "", track), make("td", percent(probability)));
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

// A line of the table about several pictures; `choose` is called when one wants to see it alone.
export function pictureRow(url, name, result, choose) {
  const image = make("img"), button = make("button", "", image, make("span", name));
  image.alt = "";
  image.onerror = () => image.remove();
  image.src = url;
  button.onclick = choose;
  const said = make("td");
  if (result.error) said.append(make("span", result.error));
  else said.append(...headline(result), make("small", result.unsure ? ` ${result.predictions.map(p => p.label).join(", ")}?` : ""));
  said.className = result.error ? "error" : result.unsure ? "unsure" : "";
  return make("tr", "", make("td", "", button), said);
}
