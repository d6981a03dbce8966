// The farm's events, one stream a page: it comes back by itself, and the page says while the farm is away.
import { reach } from "./api.js";

const LONGEST = 15_000;
const line = document.getElementById("away");
const missing = new Map();  // what is not to be had, and why

// Says that the farm is away and why, until what was not to be had is `back`.
export function away(problem, what = "events") {
  missing.set(what, [problem.detail, problem.hint].filter(Boolean).join(" – "));
  show();
}

export function back(what = "events") {
  if (missing.delete(what)) show();
}

function show() {
  const [why] = missing.values();
  const text = why ? `The farm is away: ${why}${why.endsWith("?") ? "" : "."} It is tried again.` : "";
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("shown", Boolean(why));
}

// Somebody who was let in is not any more.
export function signedOut() {
  line.textContent = "Your session is over. ";
  const link = document.createElement("a");
  link.href = "/login";
  link.textContent = "Come in again";
  line.append(link);
  line.classList.add("shown");
}

// Follows jobs or batches by name, or without `names` the whole farm. `on.status` gets each job's status as it changes;
// `on.again` is called when what is shown should be read again: at the beginning, and whenever something was missed.
export function follow(names, on) {
  const address = "/api/v1/events" + (names ? "?" + new URLSearchParams(names.map((name) => ["name", name])) : "");
  let source = null, wait = 1_000, timer = null, over = false;

  function open() {
    source = new EventSource(address);
    source.addEventListener("open", () => { wait = 1_000; back(); on.again?.(); });
    source.addEventListener("status", (event) => { back(); on.status?.(JSON.parse(event.data)); });
    source.addEventListener("reset", () => { back(); on.again?.(); });
    source.addEventListener("problem", (event) => { away(JSON.parse(event.data)); on.problem?.(); });
    source.addEventListener("end", () => { over = true; source.close(); });
    source.addEventListener("error", () => {
      if (over) return;
      if (source.readyState === EventSource.CLOSED) refused();
      else away({ detail: "the site does not answer", hint: "is the farm up?" });
    });
  }

  // Refused, which a browser does not try again, and does not tell why: so it is asked once more.
  async function refused() {
    source = null;
    const enough = new AbortController();
    try {
      await reach(address, { signal: enough.signal });
      enough.abort();
    } catch (problem) {
      if (problem.status === 401) return signedOut();
      away(problem);
    }
    timer = setTimeout(look, wait);
    wait = Math.min(LONGEST, 2 * wait);
  }

  const close = () => { clearTimeout(timer); source?.close(); source = null; };
  // A page that nobody sees lets go of its stream: a browser has six connections to a site, for all of its pages.
  const look = () => {
    if (over || left.signal.aborted) return;
    if (document.hidden) close();
    else if (!source) open();
  };
  const left = new AbortController();
  addEventListener("pagehide", close, left);
  addEventListener("pageshow", (event) => { if (event.persisted) look(); }, left);
  document.addEventListener("visibilitychange", look, left);
  look();
  return () => { left.abort(); close(); };
}
