// fetch with the API key, which is asked for in a dialog when the service wants one, and kept for this tab.
const dialog = document.getElementById("key");
let asking = null;

function askForKey(wrong) {
  asking ??= new Promise(resolve => {
    dialog.querySelector("output").textContent = wrong ? "That key was not accepted." : "";
    dialog.returnValue = "";
    dialog.onclose = () => {
      const key = dialog.returnValue === "send" ? dialog.querySelector("input").value.trim() : "";
      dialog.querySelector("input").value = "";
      asking = null;
      resolve(key);
    };
    dialog.showModal();
  });
  return asking;
}

// Throws an Error that can be shown: no answer, or no key.
async function ask(path, options = {}) {
  for (let key = sessionStorage.getItem("key"), tried = false; ; tried = true) {
    let response;
    try {
      response = await fetch(path, {...options, headers: key ? {Authorization: "Bearer " + key} : {}});
    } catch (err) {
      if (err.name === "AbortError") throw err;
      throw new Error("The service does not answer.");
    }
    if (response.status !== 401) return response;
    sessionStorage.removeItem("key");
    key = await askForKey(key && tried);
    if (!key) throw new Error("This service asks for a key, and none was given.");
    sessionStorage.setItem("key", key);
  }
}
