(async () => {
  let key = "", response = await fetch("docs.json");
  while (response.status === 401 && (key = prompt("API key") || "")) {
    response = await fetch("docs.json", {headers: {Authorization: "Bearer " + key}});
  }
  SwaggerUIBundle({
    spec: await response.json(),
    dom_id: "#swagger-ui",
    validatorUrl: null,
    requestInterceptor: request => {
      if (key) request.headers.Authorization = "Bearer " + key;
      return request;
    },
  });
})();
