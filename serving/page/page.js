// The page: a picture and a model -> the service's answer about them, whichever of them changes.
// Model, version and sample live in the address, so that Back and reload keep them.
import {ask, get, key} from "./key.js";
import {headline, make, pictureRow, showAnswer} from "./answer.js";
import {commands} from "./command.js";
import {drawOn} from "./pad.js";
import {NoPicture, prepared} from "./picture.js";
import {paint, samplesFor} from "./samples.js";

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
const PASSING = ["overloaded", "unavailable", "deadline_exceeded", "internal_error"];  // may be otherwise another time
const AT_ONCE = 16;  // pictures of one batch
let served = [];     // what GET /models lists
let picture = null;  // {blob, name, note}: the one that is shown, however it came
let sample = "";     // its label, if it is one
let chosen = 0;      // counts pictures: one that is ready late does not replace a newer one
let current = null;  // stops the request whose answer nobody waits for any more
let loading = null;  // the request for the models, of all that wait for them
const cards = new Map();  // model -> a promise of its card

// `content` is a text or nodes. An error may be for good: then there is nothing to try again.
function say(content, kind = "", again = kind === "error") {
  element("say").className = kind;
  element("say").replaceChildren(...[content].flat());
  element("again").hidden = !again;
  const answered = kind === "answer" || kind === "unsure";
  element("answer").hidden = kind === "error" || (!answered && element("answer").hidden);
  element("answer").classList.toggle("stale", !answered);  // its room stays: nothing moves under a finger that draws
  element("several").hidden = true;
  element("placeholder").hidden = content !== "" || !element("answer").hidden;
  element("answer-title").parentElement.setAttribute("aria-busy", kind === "busy");
}

// Models and the address

const asked = () => new URLSearchParams(location.search);
const model = () => served.find(({name}) => name === element("model").value);
const version = () => model()?.versions.find(one => String(one.version) === element("version").value);
const strokes = () => version()?.input_convention === "light_on_dark_centred";

function loadModels() {
  return loading ??= get("models").then(found => {
    served = found.models;
    element("model").dataset.default = found.default;
    element("model").replaceChildren(...served.map(({name}) => new Option(name, name)));
    chooseByAddress();
  }).finally(() => loading = null);
}

function chooseByAddress() {
  const name = asked().get("model"), known = served.some(one => one.name === name);
  element("model").value = known ? name : element("model").dataset.default;
  showModel(asked().get("version"));
  if (name && !known) element("about").prepend(make("strong", `There is no model ${name} here. `));
}

function showByAddress() {
  const wanted = samples().find(({label}) => label === asked().get("sample"));
  if (wanted) showSample(wanted);
  else if (picture && !sample) classify();
  else start();
}

function writeAddress() {
  if (!served.length) return;
  const query = asked(), last = String(model().versions.at(-1).version), number = element("version").value;
  const put = (part, value) => value ? query.set(part, value) : query.delete(part);
  put("model", element("model").value);
  put("version", number !== last && number);
  put("sample", sample);
  if (query.toString() !== asked().toString()) history.pushState(null, "", "?" + query);
}

function showModel(number) {
  const {name, versions} = model();
  element("version").replaceChildren(...versions.map(one => new Option(one.version, one.version)));
  element("version").value = versions.some(one => String(one.version) === number) ? number : versions.at(-1).version;
  element("versions").hidden = versions.length < 2;
  element("card").href = "models/" + encodeURIComponent(name);
  element("card").hidden = false;
  showVersion();
}

const samples = () => samplesFor(version().labels, strokes());

function showVersion() {
  const {labels, metrics, input_shape: [height, width, channels]} = version();
  const accuracy = metrics?.accuracy == null ? "Its accuracy was not measured here."
    : `It was right about ${(100 * metrics.accuracy).toFixed(1)} % of its test pictures.`;
  element("about").textContent = `Sees ${width}×${height} pixels ${channels === 1 ? "in grey" : "in colour"}. ${accuracy}`;
  element("known").hidden = false;
  element("known").querySelector("summary").textContent = `Knows ${labels.length.toLocaleString("en")} classes`;
  element("known").querySelector("p").textContent = labels.join(", ");
  element("invitation").textContent = strokes() ? "Draw a digit or choose a picture of one, and the service says which it is."
    : "Choose a picture, and the service says what it shows.";
  element("draw").hidden = !strokes();
  element("samples").replaceChildren(...samples().map((one, i) => {
    const button = make("button"), canvas = button.appendChild(make("canvas"));
    button.id = i ? "" : "sample";
    button.className = "button";
    button.title = button.ariaLabel = "Sample: " + one.label;
    canvas.width = canvas.height = 64;
    paint(canvas, one);
    button.onclick = () => showSample(one);
    return button;
  }));
}

// Whether the model's card says from which probability on its answers can be relied on.
async function hasThreshold(name) {
  if (!cards.has(name)) cards.set(name, get("models/" + encodeURIComponent(name)));
  try {
    return (await cards.get(name)).card.threshold?.probability != null;
  } catch {
    cards.delete(name);
    return false;
  }
}

// Asking

function address(route, more) {
  const query = new URLSearchParams({model: element("model").value, version: element("version").value, ...more});
  return `${route}?${query}`;
}

// The answer shown is that of the picture and the model shown: whatever was asked before is given up.
async function asking(work) {
  current?.abort();
  const mine = current = new AbortController();
  say("Classifying…", "busy");
  try {
    if (!served.length) await loadModels();
    if (mine !== current) return;
    say("Classifying…", "busy");
    await work(mine, await hasThreshold(element("model").value) ? {min_probability: "card"} : {});
  } catch (err) {
    if (mine === current) say(err.message, "error");
  }
}

const failure = ({error, code}) => [error[0].toUpperCase() + error.slice(1) + ".", ADVICE[code]].filter(Boolean).join(" ");

const classify = () => asking(async (mine, least) => {
  const options = {top_k: 5, ...least};
  showCommand(options);
  const began = performance.now();
  const form = new FormData();
  form.append("image", picture.blob, picture.name);
  const send = more => ask(address("classify", {...options, ...more}), {method: "POST", body: form, signal: mine.signal});
  const explain = element("explain").checked;
  let {ok, status, body} = await send(explain ? {explain: 1} : {}), where = "";
  if (explain && (status === 503 || status === 504 || /explain/.test(body.error))) {  // too much, or never: ask for less
    where = "Where it looked was not found out: " + body.error + ".";
    ({ok, body} = await send({}));
  }
  if (mine !== current) return;
  if (ok) {
    showAnswer(body, performance.now() - began, {where, sent: picture.note});
    say(headline(body), body.unsure ? "unsure" : "answer");
  } else say(failure(body), "error", PASSING.includes(body.code));
  showCommand(options);  // with a key, if one was asked for
});

const classifySeveral = files => asking(async (mine, least) => {
  const lines = [];
  for (const [i, file] of files.entries()) {
    if (mine !== current) return;
    say(`Reading ${i + 1} of ${files.length}…`, "busy");
    lines.push(await prepared(file).then(ready => ({file, ready}), err => ({file, result: {error: err.message}})));
  }
  const ready = lines.filter(line => line.ready);
  for (let i = 0; i < ready.length; i += AT_ONCE) {
    const some = ready.slice(i, i + AT_ONCE), form = new FormData();
    for (const {ready: {blob, name}} of some) form.append("image", blob, name);
    say(`Classifying ${Math.min(ready.length, i + AT_ONCE)} of ${ready.length}…`, "busy");
    const {ok, body} = await ask(address("classify/batch", {top_k: 3, ...least}), {method: "POST", body: form, signal: mine.signal});
    if (mine !== current) return;
    some.forEach((line, j) => line.result = ok ? body.results[j] : {error: failure(body)});
  }
  const answered = lines.filter(({result}) => !result.error).length;
  say(`${answered} of ${lines.length} pictures have an answer`, "answer");
  element("answer").hidden = true;
  element("several").hidden = false;
  element("several").querySelector("tbody").replaceChildren(...lines.map(({file, result}) =>
    pictureRow(URL.createObjectURL(file), file.name, result, () => choose([file]))));
});

function showCommand(options) {
  const url = new URL(address("classify", options), document.baseURI);
  for (const [id, text] of Object.entries(commands(String(url), picture.name, Boolean(key())))) element(id).textContent = text;
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

function show(ready, {drawn = false, label = ""} = {}) {
  giveUp();
  URL.revokeObjectURL(element("save").href);
  picture = ready;
  sample = label;
  writeAddress();
  const url = element("save").href = URL.createObjectURL(ready.blob);
  element("save").download = ready.name;
  element("save").hidden = ready.blob instanceof File || ready.note !== "";  // who chose a file has it
  if (!drawn) {
    showPad(false);
    element("hint").hidden = true;
    element("shown").src = url;
    element("shown").alt = "The picture: " + ready.name;
    element("shown").hidden = false;
  }
  classify();
}

element("shown").onerror = () => {  // a format that the service reads and this browser does not
  element("shown").hidden = true;
  element("hint").textContent = `${picture?.name}: this browser cannot show it, but the service may read it.`;
  element("hint").hidden = false;
};

function showPad(on, drawn = on) {
  element("pad").hidden = !on;
  element("undo").hidden = element("clear").hidden = !drawn;
  if (on) element("shown").hidden = true;
  if (drawn) element("hint").hidden = true;
}

async function choose(files) {
  giveUp();
  const mine = chosen;
  if (!files.length) return;
  if (!served.length) await loadModels().catch(() => {});  // asking tells
  if (mine !== chosen) return;
  if (files.length > 1) {
    forget("Several pictures: their answers are in the table.");
    return classifySeveral([...files]);
  }
  try {
    const ready = await prepared(files[0]);
    if (mine === chosen) show(ready);
  } catch (err) {
    if (mine !== chosen) return;
    forget(files[0].name);
    say(err.message, "error", !(err instanceof NoPicture));
  }
}

// No picture is shown, but a hint.
function forget(hint) {
  picture = null;
  sample = "";
  element("shown").hidden = element("save").hidden = element("command").hidden = true;
  showPad(false);
  element("hint").hidden = false;
  element("hint").textContent = hint;
}

function showCanvas(canvas, name, more) {
  giveUp();
  const mine = chosen;
  canvas.toBlob(blob => mine === chosen && show({blob, name, note: ""}, more));
}

async function showSample(one) {
  giveUp();
  const mine = chosen, canvas = make("canvas");
  canvas.width = canvas.height = 280;
  await paint(canvas, one);
  if (mine === chosen) showCanvas(canvas, `sample-${one.label.replaceAll(" ", "-")}.png`, {label: one.label});
}

// What is there before there is a picture: the drawing area, where the model reads strokes.
function start() {
  giveUp();
  element("answer").hidden = true;
  say("");
  pad.wipe();
  forget(strokes() ? "Draw a digit here, large. Or drop pictures." : "Drop pictures here, paste one, or click a sample.");
  showPad(strokes(), false);
}

function startDrawing() {
  start();
  writeAddress();
}

const pad = drawOn(element("pad"), () => { giveUp(); showPad(true); }, () => showCanvas(element("pad"), "drawing.png", {drawn: true}));

async function begin() {
  if (picture) return classify();
  const mine = chosen;
  try {
    say("Looking for models…", "busy");
    await loadModels();
    if (mine === chosen) showByAddress();
  } catch (err) {
    say(err.message, "error");
  }
}

for (const id of ["file", "camera"]) {
  element(id).onchange = () => choose(element(id).files);
  element(id).onclick = () => element(id).value = "";  // so that the same file can be chosen again
}
function chooseModel() {
  const wanted = sample && samples().some(({label}) => label === sample);
  if (sample && !wanted) forget("");
  writeAddress();
  if (picture) classify(); else start();
}
element("model").onchange = () => { showModel(); chooseModel(); };
element("version").onchange = () => { showVersion(); chooseModel(); };
element("explain").onchange = () => picture && classify();
element("again").onclick = begin;
element("draw").onclick = element("clear").onclick = startDrawing;
element("undo").onclick = () => {
  if (pad.undo()) showCanvas(element("pad"), "drawing.png", {drawn: true});
  else startDrawing();
};
for (const button of document.querySelectorAll(".copy")) button.onclick = async () => {
  const code = element(button.dataset.of);
  try {
    await navigator.clipboard.writeText(code.textContent);
    element("copied").textContent = "Copied.";
  } catch {  // not over plain HTTP from another machine
    getSelection().selectAllChildren(code);
    element("copied").textContent = "Marked: copy it with Ctrl+C or ⌘C.";
  }
};
document.ondragover = event => { event.preventDefault(); element("drop").classList.add("over"); };
document.ondragleave = () => element("drop").classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  element("drop").classList.remove("over");
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files);
  else say("What was dropped is no file. Save the picture first, and drop the file.", "error", false);
};
document.onpaste = event => choose(event.clipboardData.files);
onpopstate = () => {
  if (!served.length) return;
  chooseByAddress();
  showByAddress();
};
begin();
