const element = id => document.getElementById(id);
let key = "";
async function ask(path, options = {}) {  // asks for the API key when the service does
  const response = await fetch(path, {...options, headers: key ? {Authorization: "Bearer " + key} : {}});
  if (response.status !== 401 || !(key = prompt("API key") || "")) return response;
  return ask(path, options);
}
ask("models").then(r => r.json()).then(served => {
  for (const {name} of served.models) element("model").add(new Option(name, name, false, name === served.default));
});
async function classify(file) {
  element("shown").src = URL.createObjectURL(file);
  element("shown").hidden = false;
  const form = new FormData();
  form.append("image", file);
  const answer = element("answer");
  try {
    const response = await ask("classify?top_k=5&model=" + encodeURIComponent(element("model").value),
                               {method: "POST", body: form});
    const body = await response.json();
    answer.className = response.ok ? "" : "error";
    if (!response.ok) { answer.textContent = body.error; return; }
    const table = document.createElement("table");
    for (const {label, probability} of body.predictions) {
      const row = table.insertRow();
      row.insertCell().textContent = label;
      const meter = document.createElement("meter");
      meter.value = probability;
      row.insertCell().append(meter);
      row.insertCell().textContent = (100 * probability).toFixed(1) + " %";
    }
    answer.replaceChildren(table);
  } catch (err) { answer.className = "error"; answer.textContent = "The service does not answer."; }
}
const files = element("file"), drop = element("drop");
files.onchange = () => files.files[0] && classify(files.files[0]);
element("model").onchange = files.onchange;
drop.ondragover = event => { event.preventDefault(); drop.className = "over"; };
drop.ondragleave = () => drop.className = "";
drop.ondrop = event => {
  event.preventDefault();
  drop.className = "";
  if (event.dataTransfer.files[0]) classify(event.dataTransfer.files[0]);
};
