// fetch with the API key, which is asked for in a dialog when the service wants one, and kept for this tab.
document.body.insertAdjacentHTML("beforeend", `
<dialog id="key" aria-labelledby="key-title">
<form method="dialog">
<p id="key-title">This service asks for an API key.</p>
<p><label>Key <input type="password" autocomplete="off" required></label></p>
<p class="error" role="alert"></p>
<button value="send">Send</button> <button value="cancel" formnovalidate>Cancel</button>
</form>
</dialog>
`);
const dialog = document.getElementById("key");
const WRONG = "That key was not accepted.", IMPOSSIBLE = "A key has plain letters, digits and signs only. Look for a wrong character.";
let asking = null;

export const key = () => sessionStorage.getItem("key");

function askForKey(problem) {
  asking ??= new Promise(resolve => {
    const input = dialog.querySelector("input");
    dialog.querySelector(".error").textContent = problem;
    dialog.returnValue = "";
    dialog.onclose = () => {
      const given = dialog.returnValue === "send" ? input.value.trim() : "";
      input.value = "";
      asking = null;
      resolve(given);
    };
    dialog.showModal();
  });
  return asking;
}

// The service does not take the key of this tab, or there is none: ask for one. False if none was given.
export async function renewKey(refused) {
  if (key() === refused) sessionStorage.removeItem("key");  // another request may have got a better one meanwhile
  for (let problem = refused ? WRONG : ""; !key(); problem = IMPOSSIBLE) {
    const given = await askForKey(problem);
    if (!given) return Boolean(key());
    if (/^[\x21-\x7e]+$/.test(given)) sessionStorage.setItem("key", given);  // no header carries another
  }
  return true;
}

// Resolves to {ok, status, body}. Throws an Error that can be shown: no answer, or no key.
export async function ask(path, options = {}) {
  for (;;) {
    const used = key();
    let response, body;
    try {
      response = await fetch(path, {cache: "no-store", ...options, headers: {
        Accept: "application/json", ...(used && {Authorization: "Bearer " + used}),
      }});
      body = await response.json();
    } catch (err) {
      if (err.name === "AbortError") throw err;
      if (response) throw new Error(`The service gave no answer that this page understands (status ${response.status}).`);
      throw new Error("The service does not answer. Is it running, and are you connected to it?");
    }
    if (response.status !== 401) return {ok: response.ok, status: response.status, body};
    if (!await renewKey(used)) throw new Error("This service asks for a key, and none was given.");
  }
}

// Throws what went wrong.
export async function get(path) {
  const {ok, body} = await ask(path);
  if (!ok) throw new Error(body.error);
  return body;
}
