// The gallery: pictures from the API as far as they are seen, a search, one picture with its settings, and two compared.
import { ask } from "./api.js";
import { away, back, follow, signedOut } from "./live.js";
import { compare } from "./pair.js";
import { facts, picture, prompts, thumbnail, trace } from "./told.js";
import { wall } from "./wall.js";

const PAGE = 100, MOST_PAGES = 40;
const SOON = 120, LATER = 1_500;
const $ = (id) => document.getElementById(id);
const box = $("box"), field = $("q");

// What a search finds, by index: pages that come when they are asked for, and the oldest of them are dropped.
let asked = null, here = null, total = 0, turn = 0;
let pages = new Map();

const entryAt = (index) => pages.get(Math.floor(index / PAGE))?.[index % PAGE];

async function need(number) {
  if (pages.has(number) || number * PAGE >= total) return;
  const mine = turn;
  pages.set(number, []);
  while (pages.size > MOST_PAGES) pages.delete(pages.keys().next().value);
  const found = await look(here, number * PAGE);
  if (mine !== turn) return;
  if (!found) { pages.delete(number); setTimeout(() => need(number), LATER); return; }
  pages.set(number, found.pictures);
  cells.refill(number * PAGE, (number + 1) * PAGE);
}

async function look(cursor, skip) {
  const query = new URLSearchParams({ q: asked, limit: PAGE, skip, ...(cursor ? { cursor } : {}) });
  try {
    const found = await ask(`/api/v1/gallery?${query}`);
    back("gallery");
    fault(null);
    return found;
  } catch (problem) {
    if (problem.status === 401) signedOut();
    else if (problem.field === "q") fault(problem);
    else away(problem, "gallery");
    return null;
  }
}

function fault(problem) {
  $("fault").hidden = !problem;
  $("fault").textContent = problem ? [problem.detail.replace(/^q: /, ""), problem.hint].filter(Boolean).join(" – ") : "";
  field.toggleAttribute("aria-invalid", Boolean(problem));
}

async function search(text, { keep = false } = {}) {
  const mine = ++turn;
  asked = text;
  const found = await look(null, 0);
  if (mine !== turn) return;
  if (!found) {
    if ($("fault").hidden) setTimeout(() => mine === turn && search(text, { keep }), LATER);
    return;
  }
  here = found.here;
  total = found.total;
  pages = new Map([[0, found.pictures]]);
  $("found").textContent = `${total.toLocaleString("en")} ${total === 1 ? "picture" : "pictures"}`;
  $("fresh").hidden = true;
  $("empty").hidden = total > 0;
  $("empty").textContent = found.making ? "The index of pictures is being made." : text ? "No picture is like this." : "No picture yet.";
  if (found.making) {
    const { done, of } = found.making;
    $("found").textContent += of ? `, still looking: ${done} of ${of} batches` : ", still looking";
    setTimeout(() => mine === turn && scrollY < 100 && !box.open && search(text, { keep: true }), LATER);
  }
  if (!keep) scrollTo(0, 0);
  cells.reset(total);
}

// The cells
let settling = null;
const hungry = new Set();

function feed() {
  settling = null;
  for (const cell of hungry) {
    const entry = entryAt(cell.dataset.index);
    if (cell.hidden || !entry) continue;
    const shown = cell.firstChild;
    if (shown.dataset.job === entry.job) continue;
    shown.dataset.job = entry.job;
    shown.hidden = false;
    shown.src = thumbnail(entry.job);
  }
  hungry.clear();
}

const cells = wall($("wall"), {
  make() {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "cell";
    cell.tabIndex = -1;
    const shown = document.createElement("img"), said = document.createElement("span");
    shown.alt = "";
    shown.decoding = "async";
    // Too many were asked for at once, or the farm is away: later.
    shown.addEventListener("error", () => {
      shown.hidden = true;
      const { job } = shown.dataset;
      setTimeout(() => { if (shown.dataset.job === job) { delete shown.dataset.job; hungry.add(cell); feed(); } }, 4 * LATER);
    });
    said.className = "said";
    cell.append(shown, said);
    cell.addEventListener("click", () => open(Number(cell.dataset.index)));
    cell.addEventListener("focus", () => { at = Number(cell.dataset.index); });
    return cell;
  },
  fill(cell, index) {
    const entry = entryAt(index);
    cell.dataset.index = index;
    cell.tabIndex = index === at ? 0 : -1;
    if (cell.firstChild.dataset.job !== entry?.job) { cell.firstChild.hidden = true; cell.firstChild.removeAttribute("src"); delete cell.firstChild.dataset.job; }
    cell.lastChild.textContent = entry ? prompts(entry) : "";
    cell.setAttribute("aria-label", entry ? `${prompts(entry)} – ${entry.job}` : "loading");
    cell.classList.toggle("marked", Boolean(entry) && entry.job === marked?.job);
    if (!entry) return void need(Math.floor(index / PAGE));
    hungry.add(cell);
    settling ??= setTimeout(feed, SOON);
  },
});

// One picture
let at = 0, marked = null, opener = null;

async function open(index) {
  if (index < 0 || index >= total) return;
  if (!entryAt(index)) await need(Math.floor(index / PAGE));
  const entry = entryAt(index);
  if (!entry) return;
  at = index;
  const whole = $("whole");
  whole.src = thumbnail(entry.job);
  whole.alt = prompts(entry);
  whole.classList.toggle("small", Math.max(entry.width ?? 512, entry.height ?? 512) < 256);
  const full = new Image();
  full.src = picture(entry.job);
  full.decode().then(() => { if (at === index) whole.src = full.src; }, () => {});
  $("prompts").textContent = prompts(entry);
  $("facts").replaceChildren(...facts(entry).map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    said.dir = "auto";
    row.append(term, said);
    return row;
  }));
  $("labels").replaceChildren(...Object.entries(entry.labels).map(([name, value]) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.textContent = `${name}=${value}`;
    link.href = `?${new URLSearchParams({ q: `label:"${name}=${value.replaceAll('"', "")}"` })}`;
    item.append(link);
    return item;
  }));
  $("download").href = picture(entry.job);
  $("download").download = `${entry.job}.png`;
  $("trace").href = trace(entry.job);
  if ($("again")) {
    $("again").href = `/submit?${new URLSearchParams({ again: entry.job })}`;
    $("onward").href = `/submit?${new URLSearchParams({ start: entry.job })}`;
  }
  $("newer").disabled = index === 0;
  $("older").disabled = index === total - 1;
  tellMark();
  if (!box.open) {
    opener = document.activeElement;
    box.showModal();
    $("older").focus();
  }
}

function tellMark() {
  const entry = entryAt(at);
  const isFirst = marked && entry && marked.job === entry.job;
  $("mark").setAttribute("aria-pressed", String(Boolean(isFirst)));
  $("mark").textContent = !marked ? "Compare" : isFirst ? "Chosen: open another" : "Compare with the chosen";
}

function mark() {
  const entry = entryAt(at);
  if (!marked) marked = entry;
  else if (marked.job === entry.job) marked = null;
  else { compare(marked, entry); marked = null; }
  tellMark();
  cells.refill(0, total);
}

box.addEventListener("close", () => {
  const cell = cells.reach(at);
  (cell ?? opener)?.focus();
});
$("close").addEventListener("click", () => box.close());
$("newer").addEventListener("click", () => open(at - 1));
$("older").addEventListener("click", () => open(at + 1));
$("mark").addEventListener("click", mark);
box.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { ArrowLeft: () => open(at - 1), ArrowRight: () => open(at + 1), d: () => $("download").click(), c: mark }[event.key];
  if (act) { event.preventDefault(); act(); }
});

// On the wall the arrows go from picture to picture.
$("wall").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cells.columns, ArrowDown: cells.columns }[event.key];
  const next = at + step;
  if (!step || next < 0 || next >= total) return;
  event.preventDefault();
  const old = at;
  at = next;
  const cell = cells.reach(next);
  cells.refill(old, old + 1);
  cells.refill(next, next + 1);
  cell?.focus();
});

// The search is in the address.
let typing = null;
field.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(go, 2 * SOON);
});
$("search").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); go(); });
for (const hint of document.querySelectorAll("[data-hint]")) {
  hint.addEventListener("click", () => {
    field.value = `${field.value.trimEnd()} ${hint.dataset.hint}`.trimStart();
    field.focus();
  });
}

function go() {
  at = 0;
  const text = field.value.trim();
  history.replaceState(null, "", text ? `?${new URLSearchParams({ q: text })}` : location.pathname);
  search(text);
}

// What is done meanwhile comes by itself at the top of the wall, and is offered further below.
let coming = null;
function come() {
  coming ??= setTimeout(() => {
    coming = null;
    if (scrollY < 100 && !box.open && !$("pair").open) search(asked, { keep: true });
    else $("fresh").hidden = false;
  }, LATER);
}

// The first search waits for the stream, if that is there soon: so no picture is done between the two.
const late = setTimeout(begin, LATER);
function begin() {
  if (asked !== null) return come();
  clearTimeout(late);
  search(field.value.trim());
}

field.value = new URLSearchParams(location.search).get("q") ?? "";
follow(null, { again: begin, status: (status) => { if (status.state === "done") come(); } });
$("fresh").addEventListener("click", go);
