// Asks the site's API, and tells what went wrong in its words.

// An RFC 9457 problem; `status` is 0 where nobody answers.
export class Problem extends Error {
  constructor({ status = 0, type = "", detail, hint = null, field = null }) {
    super(detail);
    Object.assign(this, { status, type: type.replace("urn:render-farm:", ""), detail, hint, field });
  }
}

const csrf = document.querySelector("meta[name=csrf]")?.content;

const NOBODY = { detail: "the site does not answer", hint: "is the farm up?" };

// What the API answers: JSON, null, or with `as: "text"` or "blob" that. A body is sent as JSON, a FormData or a Blob as
// it is.
// Raises `Problem`.
export async function ask(path, { as = "json", ...options } = {}) {
  const answer = await reach(path, options);
  return answer.status === 204 ? null : answer[as]();
}

// The answer itself, whose body has not been read. Raises `Problem`.
export async function reach(path, { method = "GET", body, headers = {}, ...more } = {}) {
  const asItIs = body instanceof FormData || body instanceof Blob;
  const sent = {
    method,
    headers: {
      ...(csrf && method !== "GET" ? { "X-CSRF-Token": csrf } : {}),
      ...(body !== undefined && !asItIs ? { "Content-Type": "application/json" } : {}),
      ...headers,
    },
    ...(body === undefined ? {} : { body: asItIs ? body : JSON.stringify(body) }),
    ...more,
  };
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(NOBODY);
  }
  if (!answer.ok) throw new Problem(await toldBy(answer));
  return answer;
}

// Puts a file, and tells `sent` how many of its bytes have gone, which fetch cannot. Raises `Problem`.
export function put(path, file, { signal, sent }) {
  return new Promise((done, fail) => {
    const asking = new XMLHttpRequest();
    asking.open("PUT", path);
    if (csrf) asking.setRequestHeader("X-CSRF-Token", csrf);
    asking.setRequestHeader("Content-Type", "application/octet-stream");
    asking.upload.addEventListener("progress", ({ loaded }) => sent(loaded));
    asking.addEventListener("load", async () => {
      const { status, response } = asking;
      const answer = new Response(response, { status, headers: { "Content-Type": asking.getResponseHeader("Content-Type") } });
      if (answer.ok) done(await answer.json());
      else fail(new Problem(await toldBy(answer)));
    });
    asking.addEventListener("error", () => fail(new Problem(NOBODY)));
    asking.addEventListener("abort", () => fail(new DOMException("It was cancelled.", "AbortError")));
    signal.addEventListener("abort", () => asking.abort());
    asking.send(file);
  });
}

async function toldBy(answer) {
  const { status } = answer;
  try {
    if (answer.headers.get("content-type")?.includes("json")) return { ...await answer.json(), status };
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [detail, hint] = [...page.querySelectorAll("#problem p")].map((line) => line.textContent);
    return { status, detail: detail ?? answer.statusText, hint };
  } catch {
    return { status, detail: answer.statusText || `status ${status}` };
  }
}
