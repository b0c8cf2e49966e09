const element = id => document.getElementById(id);
let picture = null;    // the one that is shown, however it came
let current = null;    // stops the request whose answer nobody waits for any more

function say(text, kind = "") {
  element("answer").className = kind;
  element("answer").textContent = text;
  element("again").hidden = kind !== "error";
}

async function loadModels() {
  say("Looking for models…", "busy");
  const response = await ask("models");
  const served = await response.json();
  if (!response.ok) throw new Error(served.error);
  element("model").replaceChildren(
    ...served.models.map(({name}) => new Option(name, name, false, name === served.default)));
  say("");
}

// The answer shown is that of the picture and the model shown: whatever was asked before is given up.
async function classify() {
  current?.abort();
  const mine = current = new AbortController();
  say("Classifying…", "busy");
  const form = new FormData();
  form.append("image", picture);
  try {
    if (!element("model").options.length) await loadModels();
    const response = await ask("classify?top_k=5&model=" + encodeURIComponent(element("model").value),
                               {method: "POST", body: form, signal: mine.signal});
    const body = await response.json();
    if (mine !== current) return;
    if (!response.ok) return say(body.error, "error");
    say("");
    element("answer").append(...(body.unsure ? [unsure(body.unsure)] : []), table(body.predictions));
  } catch (err) {
    if (mine === current) say(err.message, "error");
  }
}

function unsure(reason) {
  const words = {no_figure: "There is no figure in this picture.", low_probability: "The model is not sure.",
                 several_figures: "There are several figures in this picture."};
  const line = document.createElement("p");
  line.textContent = words[reason] || "This answer should not be relied on: " + reason;
  return line;
}

function table(predictions) {
  const table = document.createElement("table");
  for (const {label, probability} of predictions) {
    const row = table.insertRow();
    row.insertCell().textContent = label;
    const meter = document.createElement("meter");
    meter.value = probability;
    row.insertCell().append(meter);
    row.insertCell().textContent = (100 * probability).toFixed(1) + " %";
  }
  return table;
}

function show(file) {
  if (!file) return;
  URL.revokeObjectURL(element("shown").src);
  picture = file;
  element("shown").src = URL.createObjectURL(file);
  element("shown").hidden = false;
  classify();
}

function begin() {
  if (picture) return classify();
  loadModels().catch(err => say(err.message, "error"));
}

const drop = element("drop");
element("file").onchange = () => show(element("file").files[0]);
element("file").onclick = () => element("file").value = "";  // so that the same file can be chosen again
element("model").onchange = () => picture && classify();
element("again").onclick = begin;
drop.ondragover = event => { event.preventDefault(); drop.className = "over"; };
drop.ondragleave = () => drop.className = "";
drop.ondrop = event => { event.preventDefault(); drop.className = ""; show(event.dataTransfer.files[0]); };
document.onpaste = event => show(event.clipboardData.files[0]);
begin();
