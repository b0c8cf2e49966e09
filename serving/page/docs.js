const problem = document.getElementById("problem"), again = document.getElementById("again");

async function draw() {
  problem.textContent = "";
  again.hidden = true;
  try {
    const response = await ask("docs.json");
    const spec = await response.json();
    if (!response.ok) throw new Error(spec.error);
    SwaggerUIBundle({
      spec,
      dom_id: "#swagger-ui",
      validatorUrl: null,
      requestInterceptor: request => {
        const key = sessionStorage.getItem("key");
        if (key) request.headers.Authorization = "Bearer " + key;
        return request;
      },
    });
  } catch (err) {
    problem.textContent = err.message;
    again.hidden = false;
  }
}
again.onclick = draw;
draw();
