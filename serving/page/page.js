// The page: a picture and a model -> the service's answer about them, whichever of them changes.
import {ask, get, key} from "./key.js";
import {drawOn, wipe} from "./pad.js";
import {paint, sampleFor} from "./samples.js";
import {showAnswer} from "./answer.js";

const element = id => document.getElementById(id);
const ADVICE = {  // what to do about a failure, by its code
  invalid_image: "Choose another file, or save this one as PNG or JPEG first.",
  unsupported_format: "Save it as PNG or JPEG, and choose that.",
  image_too_large: "Make the picture smaller, and choose it again.",
  body_too_large: "Make the picture smaller, and choose it again.",
  unknown_model: "The models have changed: load this page again.",
  overloaded: "Many others ask at the moment: try again soon.",
  unavailable: "Try again in a few seconds.",
  deadline_exceeded: "The service is busy: try again soon.",
  internal_error: "Try again; if it stays so, tell whoever runs the service.",
};
let served = [];     // what GET /models lists
let picture = null;  // {blob, name}: the one that is shown, however it came
let chosen = 0;      // counts pictures: one that is ready late does not replace a newer one
let current = null;  // stops the request whose answer nobody waits for any more

function say(text, kind = "") {
  element("say").className = kind;
  element("say").textContent = text;
  element("again").hidden = kind !== "error";
  element("answer").hidden = kind === "error" || (kind !== "answer" && element("answer").hidden);
  element("answer").classList.toggle("stale", kind !== "answer");  // its room stays: nothing moves under a finger that draws
  element("answer-title").parentElement.setAttribute("aria-busy", kind === "busy");
}

// Models

async function loadModels() {
  say("Looking for models…", "busy");
  const found = await get("models");
  const wanted = new URLSearchParams(location.search).get("model");
  served = found.models;
  const first = served.some(({name}) => name === wanted) ? wanted : found.default;
  element("model").replaceChildren(...served.map(({name}) => new Option(name, name, false, name === first)));
  showModel();
  say("");
}

const model = () => served.find(({name}) => name === element("model").value);
const version = () => model()?.versions.find(one => String(one.version) === element("version").value);

function showModel() {
  const {name, versions} = model();
  const last = versions.at(-1).version;
  element("version").replaceChildren(...versions.map(one => new Option(one.version, one.version, false, one.version === last)));
  element("versions").hidden = versions.length < 2;
  element("card").href = "models/" + encodeURIComponent(name);
  element("card").hidden = false;
  showVersion();
}

function showVersion() {
  const {labels, metrics, input_shape: [height, width, channels]} = version();
  const accuracy = metrics?.accuracy == null ? "Its accuracy was not measured here."
    : `It was right about ${(100 * metrics.accuracy).toFixed(1)} % of its test pictures.`;
  element("about").textContent = `Sees ${width}×${height} pixels ${channels === 1 ? "in grey" : "in colour"}. ${accuracy}`;
  element("known").hidden = false;
  element("known").querySelector("summary").textContent = `Knows ${labels.length.toLocaleString("en")} classes`;
  element("known").querySelector("p").textContent = labels.join(", ");
  const sample = sampleFor(labels);
  element("sample").hidden = !sample;
  if (sample) paint(element("sample").querySelector("canvas"), sample.shapes);
}

// The answer shown is that of the picture and the model shown: whatever was asked before is given up.
async function classify() {
  current?.abort();
  const mine = current = new AbortController();
  say("Classifying…", "busy");
  try {
    if (!served.length) await loadModels();
    if (mine !== current) return;
    say("Classifying…", "busy");
    showCommand();
    const began = performance.now();
    const form = new FormData();
    form.append("image", picture.blob, picture.name);
    const send = explain => ask(address(explain), {method: "POST", body: form, signal: mine.signal});
    const explain = element("explain").checked;
    let {ok, status, body} = await send(explain), note = "";
    if (explain && (status === 503 || status === 504 || /explain/.test(body.error))) {  // too much, or never: ask for less
      note = "Where it looked was not found out: " + body.error + ".";
      ({ok, body} = await send(false));
    }
    if (mine !== current) return;
    if (ok) say(showAnswer(body, performance.now() - began, note), "answer");
    else say([body.error[0].toUpperCase() + body.error.slice(1) + ".", ADVICE[body.code]].join(" "), "error");
    showCommand();  // with a key, if one was asked for
  } catch (err) {
    if (mine === current) say(err.message, "error");
  }
}

function address(explain) {
  const query = new URLSearchParams({model: element("model").value, version: element("version").value, top_k: 5});
  if (explain) query.set("explain", 1);
  return "classify?" + query;
}

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

function showCommand() {
  const authorize = key() ? '-H "Authorization: Bearer $KEY" ' : "";
  const url = new URL(address(false), document.baseURI);
  element("curl").textContent = `curl ${authorize}-F image=@${quoted(picture.name)} ${quoted(String(url))}`;
  element("copied").textContent = "";
  element("command").hidden = false;
}

// Pictures

function giveUp() {
  current?.abort();
  current = null;
  chosen += 1;
  say("");
}

function show(blob, name, drawn = false) {
  giveUp();
  URL.revokeObjectURL(element("save").href);
  picture = {blob, name};
  const url = element("save").href = URL.createObjectURL(blob);
  element("save").download = name;
  element("save").hidden = blob instanceof File;  // who chose a file has it
  if (!drawn) {
    element("hint").hidden = true;
    showPad(false);
    element("shown").src = url;
    element("shown").alt = "The picture: " + name;
    element("shown").hidden = false;
  }
  classify();
}

function showPad(on) {
  element("pad").hidden = element("clear").hidden = !on;
  if (on) element("shown").hidden = true;
}

function choose(files) {
  const file = files[0];
  if (file) show(file, file.name || "picture.png");
}

function showCanvas(canvas, name, drawn) {
  giveUp();
  const mine = chosen;
  canvas.toBlob(blob => mine === chosen && show(blob, name, drawn));
}

function startDrawing() {
  giveUp();
  picture = null;
  wipe(element("pad"));
  element("save").hidden = element("command").hidden = true;
  element("hint").hidden = false;
  element("hint").textContent = "Draw with the mouse or a finger: one digit, large.";
  showPad(true);
}

function begin() {
  if (picture) return classify();
  loadModels().catch(err => say(err.message, "error"));
}

for (const id of ["file", "camera"]) {
  element(id).onchange = () => choose(element(id).files);
  element(id).onclick = () => element(id).value = "";  // so that the same file can be chosen again
}
element("model").onchange = () => { showModel(); if (picture) classify(); };
element("version").onchange = () => { showVersion(); if (picture) classify(); };
element("explain").onchange = () => picture && classify();
element("again").onclick = begin;
element("draw").onclick = element("clear").onclick = startDrawing;
element("sample").onclick = () => {
  const canvas = document.createElement("canvas"), sample = sampleFor(version().labels);
  canvas.width = canvas.height = 280;
  paint(canvas, sample.shapes);
  showCanvas(canvas, `sample-${sample.label.replaceAll(" ", "-")}.png`, false);
};
drawOn(element("pad"), giveUp, () => showCanvas(element("pad"), "drawing.png", true));
element("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    element("copied").textContent = "Copied.";
  } catch {  // not over plain HTTP from another machine
    getSelection().selectAllChildren(element("curl"));
    element("copied").textContent = "Marked: copy it with Ctrl+C or ⌘C.";
  }
};
document.ondragover = event => { event.preventDefault(); element("drop").classList.add("over"); };
document.ondragleave = () => element("drop").classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  element("drop").classList.remove("over");
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files);
  else say("What was dropped is no file. Save the picture first, and drop the file.", "error");
};
document.onpaste = event => choose(event.clipboardData.files);
begin();
