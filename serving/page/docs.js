// Swagger, with the API key of this tab, at whatever address a proxy gives the service.
import {get, key, renewKey} from "./key.js";

const problem = document.getElementById("problem"), again = document.getElementById("again");

async function draw() {
  problem.textContent = "";
  again.hidden = true;
  try {
    const spec = await get("docs.json");
    SwaggerUIBundle({
      spec: {...spec, servers: [{url: new URL(".", location).pathname.replace(/\/$/, "") || "/"}]},
      dom_id: "#swagger-ui",
      validatorUrl: null,
      requestInterceptor: request => {
        if (key() && !request.headers.Authorization) request.headers.Authorization = "Bearer " + key();
        return request;
      },
      responseInterceptor: response => {
        if (response.status === 401) renewKey(key());  // for the next try
        return response;
      },
    });
  } catch (err) {
    problem.textContent = err.message;
    again.hidden = false;
  }
}
again.onclick = draw;
draw();
