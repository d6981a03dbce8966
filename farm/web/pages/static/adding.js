// A model or a LoRA that is added to the farm: its beginning is looked at before it is sent, how far it has got is seen,
// and it can be called off as long as it is being sent.
import { ask, Problem, put } from "./api.js";
import { refresh } from "./fresh.js";
import { tell } from "./toast.js";

const SECONDS = 1;
const LENGTH = 8;  // of the number with which safetensors begin: the length of their header
const BEGINNING = 512;  // bytes that tell what else a file is
const LONGEST_HEADER = 8 * 2 ** 20;  // of a longer one the site tells when it has all of the file
const DOING = { receiving: "Sending it to the site", reading: "The site reads it", sending: "It goes into the farm" };
const FREE = {
  models: (text) => text.toLowerCase().replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "").slice(0, 60),
  loras: (text) => text.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9_]+/, "").slice(0, 96),
};

for (const place of document.querySelectorAll("[data-adding]")) offer(place);
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());  // nothing is opened

function offer(place) {
  const { adding: kept, what } = place.dataset;
  const find = (selector) => place.querySelector(selector);
  const form = find("form"), choice = find("[type=file]"), go = find("[type=submit]"), cancel = find("[data-cancel]");
  const { name, replace } = form.elements;
  let file = null, sending = null, typed = false;

  const names = () => new Set([...document.querySelectorAll(`[data-kept=${kept}]`)].map((one) => one.dataset.remove));
  const isTaken = () => names().has(name.value);

  function fault(problem) {
    const line = find(".fault");
    const said = problem?.field ? problem.detail.replace(`${problem.field}: `, "") : problem?.detail;
    line.textContent = [said, problem?.hint].filter(Boolean).join(" – ");
    line.hidden = !problem;
    if (problem?.field === "name") name.setAttribute("aria-invalid", "true");
    else name.removeAttribute("aria-invalid");
  }

  // Takes a file, names it, and says what is wrong with it.
  async function take(next) {
    if (sending || !next) return;
    file = next;
    place.open = true;
    find("[data-said]").textContent = `${file.name}, ${size(file.size)}`;
    if (!typed) name.value = freeName(file.name.replace(/\.[^.]*$/, ""));
    seeName();
    go.disabled = true;
    const [asked, problem] = [file, await wrong()];
    if (asked !== file) return;
    fault(problem);
    go.disabled = Boolean(problem) && problem.field !== "name";
  }

  function freeName(text) {
    const first = FREE[kept](text);
    let found = first;
    for (let number = 2; names().has(found); number++) found = `${first}-${number}`;
    return found;
  }

  function seeName() {
    find("[data-another]").hidden = !isTaken();
    if (!isTaken()) replace.checked = false;
  }

  // What the site says to the file's beginning and to its name; null if nothing is known to be wrong.
  async function wrong() {
    try {
      const first = await file.slice(0, LENGTH).arrayBuffer();
      const length = first.byteLength < LENGTH ? 0 : Number(new DataView(first).getBigUint64(0, true));
      const isThere = length <= file.size - LENGTH;
      if (isThere && length > LONGEST_HEADER) return null;
      const asked = new URLSearchParams({ kept, name: name.value, size: file.size, file: file.name });
      const body = file.slice(0, Math.max(BEGINNING, isThere ? LENGTH + length : 0));
      return (await ask(`/workers/look?${asked}`, { method: "POST", body })).problem;
    } catch (problem) {
      return problem instanceof Problem ? problem : { detail: `the file cannot be read: ${problem.message}` };
    }
  }

  async function send() {
    sending = new AbortController();
    busy(true);
    fault(null);
    try {
      const problem = await wrong() ?? (isTaken() && !replace.checked ? TAKEN(what) : null);
      if (problem) throw new Problem(problem);
      const asked = new URLSearchParams({ file: file.name, replace: replace.checked });
      const [{ signal }, called] = [sending, name.value];
      await put(`/api/v1/${kept}/${encodeURIComponent(called)}?${asked}`, file, { signal, sent });
      tell(`${called} is added`);
      file = null;
      typed = false;
      form.reset();
      find("[data-said]").textContent = "or drop it here";
    } catch (problem) {
      if (problem.name === "AbortError") tell("it was not added");
      else if (problem.type === "name-taken") fault(TAKEN(what));
      else if (problem instanceof Problem) fault(problem);
      else throw problem;
    } finally {
      sending = null;
      busy(false);
      await refresh();
      seeName();
      (file ? go : find("summary")).focus();
    }
  }

  function busy(is) {
    for (const one of [choice, name, replace]) one.disabled = is;
    go.disabled = is || !file;
    cancel.hidden = find("[data-going]").hidden = !is;
    if (is) show("receiving", 0, file.size);
    else find("[data-doing]").textContent = "";
  }

  function show(doing, done, total) {
    const line = find("[data-doing]");
    if (line.textContent !== `${DOING[doing]}…`) line.textContent = `${DOING[doing]}…`;
    find("progress").value = total ? done / total : 0;
    find("[data-much]").textContent = `${size(done)} of ${size(total)}`;
  }

  // Once all of it has gone nothing calls it off any more, and the site says what it does.
  function sent(bytes) {
    if (bytes < file.size) show("receiving", bytes, file.size);
    else if (!cancel.hidden) {
      cancel.hidden = true;
      follow();
    }
  }

  async function follow() {
    const asked = sending;
    while (sending && sending === asked) {
      const found = await ask("/api/v1/uploads").catch(() => []);
      const mine = found.find((one) => one.what === what && one.name === name.value);
      if (mine && sending === asked) show(mine.doing, mine.done, mine.total ?? file.size);
      await new Promise((next) => setTimeout(next, 1000 * SECONDS));
    }
  }

  choice.addEventListener("change", () => take(choice.files[0]));
  place.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  name.addEventListener("input", () => { typed = Boolean(name.value); seeName(); fault(null); });
  cancel.addEventListener("click", () => sending?.abort());
  form.addEventListener("submit", (event) => { event.preventDefault(); if (file && !sending) send(); });
  addEventListener("beforeunload", (event) => { if (sending && !cancel.hidden) event.preventDefault(); });
}

const TAKEN = (what) => ({
  field: "name", detail: `the farm has a ${what} of this name`, hint: "choose another, or put this one in its place",
});

function size(bytes) {
  for (const [unit, length] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= length) return `${(bytes / length).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}
