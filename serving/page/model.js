// The card of one model, which GET /models/{name} answers, as a page.
import {get} from "./key.js";

const element = id => document.getElementById(id);
const percent = p => (100 * p).toFixed(2) + " %";
const number = n => n.toLocaleString("en");

function make(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// [name, value] pairs; those without a value are left out.
function table(rows) {
  const body = make("tbody");
  for (const [name, value] of rows) {
    if (value === null || value === undefined || value === "") continue;
    const head = make("th", name);
    head.scope = "row";
    body.append(make("tr", "", head, value instanceof Node ? make("td", "", value) : make("td", words(value))));
  }
  return make("table", "", body);
}

function words(value) {
  if (Array.isArray(value)) return value.map(words).join(", ");
  if (value && typeof value === "object") return Object.entries(value).map(([name, one]) => `${name}: ${words(one)}`).join("; ");
  return typeof value === "number" ? number(value) : String(value);
}

function section(title, ...children) {
  const made = make("section", "", make("h2", title), ...children);
  element("sections").append(made);
}

const spaced = rows => Object.entries(rows).map(([name, value]) => [name.replaceAll("_", " "), value]);

function link(text, href) {
  const made = make("a", text);
  made.href = href;
  return made;
}

function show({name, versions, card, default: isDefault}) {
  const served = versions.at(-1), metrics = card.metrics ?? {}, data = card.dataset ?? {};
  document.title = "Shortcut: " + name;
  element("name").textContent = name;
  element("sections").replaceChildren(make("p", "", link("Try it with a picture", "../?model=" + encodeURIComponent(name))));
  if (card.warnings?.length) section("Warnings of its training", make("ul", "", ...card.warnings.map(one => make("li", one))));
  const interval = card.intervals?.accuracy;
  section("What it is", table([
    ["network", card.network],
    ["trained on", data.origin ?? data.name],
    ["pictures", data.train && `${number(data.train)} for training, ${number(data.test ?? 0)} for testing`],
    ["sees", `${card.input_shape[1]}×${card.input_shape[0]} pixels, ${card.input_shape[2] === 1 ? "grey" : "colour"} (${card.input_convention.replaceAll("_", " ")})`],
    ["parameters", card.parameters],
    ["multiply-adds", card.macs],
    ["used where no model is named", isDefault ? "yes" : "no"],
  ]));
  section("How well it does", table([
    ["test accuracy", metrics.accuracy == null ? "not measured here"
      : percent(metrics.accuracy) + (interval ? ` (95 % interval ${percent(interval[0])} to ${percent(interval[1])})` : "")],
    ["claimed by its authors", card.claimed],
    ["calibration error", metrics.calibration_error?.toFixed(3)],
    ["reliable from", card.threshold && `a probability of ${card.threshold.probability}: ${words(card.threshold)}`],
    ["temperature", card.calibration],
  ]));
  section(`The ${number(card.labels.length)} classes`, classes(card.labels, metrics.per_class_accuracy));
  section("How it is computed here", ...versions.map(one => table([
    ["version", one.version],
    ["by", `${one.provider}, ${one.precision}`],
    ["images a second", Math.round(one.images_per_second)],
    ["why so", one.provider_reason],
  ])));
  if (card.training) section(`How version ${served.version} was trained`, table(spaced({...card.training, ...card.recipe})));
  section("Files", table([
    ["revision", card.revision],
    ["libraries", card.libraries],
    ...Object.entries(card.files ?? {}).map(([file, {bytes, sha256}]) => [file, `${bytes ? number(bytes) + " bytes, " : ""}SHA-256 ${sha256}`]),
  ]));
}

// With the share of right answers about each, where that was measured.
function classes(labels, accuracy) {
  return accuracy ? table(labels.map(label => [label, accuracy[label] == null ? "" : percent(accuracy[label])]))
    : make("details", "", make("summary", "Show them"), make("p", labels.join(", ")));
}

async function load() {
  element("problem").className = "busy";
  element("problem").textContent = "Looking for the model…";
  element("again").hidden = true;
  try {
    show(await get(location.pathname));
    element("problem").className = element("problem").textContent = "";
  } catch (err) {
    element("problem").className = "error";
    element("problem").textContent = err.message;
    element("again").hidden = false;
  }
}
element("again").onclick = load;
load();
