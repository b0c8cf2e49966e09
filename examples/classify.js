// Classifies a picture with fetch, in a browser or in Node 18 and later:
//   const answer = await classify(file, { model: "digits_cnn-mnist", top_k: 1 });
// `picture` is a File, Blob or Uint8Array. In a browser the page must come from the service's own address, or from a
// proxy that leads to both: the service sends no CORS headers, so other pages may not read its answers.
export async function classify(picture, { url = "", key = "", ...options } = {}) {
  const headers = { "Content-Type": "application/octet-stream" };
  if (key) headers.Authorization = `Bearer ${key}`;
  for (let tries = 1; ; tries++) {
    const response = await fetch(`${url}/classify?${new URLSearchParams(options)}`, {
      method: "POST", headers, body: picture,
    });
    if (response.status === 503 && tries < 5) { // busy
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      continue;
    }
    const answer = await response.json();
    if (!response.ok) throw Object.assign(new Error(answer.error), { code: answer.code });
    return answer;
  }
}
