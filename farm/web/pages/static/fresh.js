// Brings parts of the page up to date from the server's own rendering of it: what is the same stays as it is, with its
// focus, its place and what was chosen in it.
import { ask } from "./api.js";
import { away, back, signedOut } from "./live.js";

// Makes an element what another one is, touching as little as possible. Elements with ids keep them company; what has
// the attribute `data-own` is a script's, and left alone.
export function morph(old, next) {
  if (old.isEqualNode(next) || (isOwn(old) && isOwn(next))) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const byId = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const wanted of [...next.childNodes]) {
    const mine = wanted.id ? byId.get(wanted.id) : isLike(place, wanted) ? place : null;
    if (mine) {
      if (mine === place) place = place.nextSibling;
      else old.insertBefore(mine, place);
      morph(mine, wanted);
    } else {
      old.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

const isOwn = (node) => node.dataset?.own !== undefined;
const isLike = (node, wanted) => node && !node.id && node.nodeName === wanted.nodeName;

// Reads the page again, and brings every element with `data-live` and an id up to date. Returns whether that was done.
export async function refresh() {
  try {
    const text = await ask(location.pathname + location.search, { headers: { Accept: "text/html" }, as: "text" });
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const old of document.querySelectorAll("[data-live][id]")) {
      const next = page.getElementById(old.id);
      if (next) morph(old, next);
    }
    back("page");
    back("events");
    document.dispatchEvent(new Event("fresh"));
    return true;
  } catch (problem) {
    if (problem.status === 401) signedOut();
    else away(problem, "page");
    return false;
  }
}

// Reads the page again soon, and no more often than every `seconds`, however often that is wished for; not while nobody
// sees it.
export function wishes(seconds = 2) {
  let timer = null, last = -Infinity, busy = false, again = false;
  async function run() {
    timer = null;
    busy = true;
    const done = await refresh();
    last = performance.now();
    busy = false;
    if (again || !done) { again = false; wish(); }
  }
  function wish() {
    if (document.hidden) document.addEventListener("visibilitychange", wish, { once: true });
    else if (busy) again = true;
    else timer ??= setTimeout(run, Math.max(150, 1000 * seconds - (performance.now() - last)));
  }
  return wish;
}
