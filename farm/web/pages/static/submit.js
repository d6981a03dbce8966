// The form: what is filled in is read by the server as the command reads it, so that what is wrong is told at once.
import { ask, Problem } from "./api.js";
import { files, onFile, pictureFrom } from "./init.js";
import { away, back, signedOut } from "./live.js";
import { show } from "./made.js";

const SOON = 250;
const $ = (id) => document.getElementById(id);
const form = $("form");
const fields = [...form.querySelectorAll(".field")];
const touched = new Set();
let all = false;  // everything has been looked at: it was submitted

const mode = () => form.elements.mode.value;
const isShown = (field) => !field.hidden;
const inputs = (field) => [...field.querySelectorAll("input:not([type=file]), select, textarea")];
const named = (name) => fields.find((field) => isShown(field) && field.dataset.name === name);

function valueOf(field) {
  const { kind, name } = field.dataset;
  if (kind === "file") return files.get(name)?.name ?? "";
  if (kind === "switch") return inputs(field)[0].checked;
  const values = inputs(field).map((input) => input.validity.badInput ? "?" : input.value);
  return field.classList.contains("many") ? values.filter(Boolean) : values[0];
}

function fill(field, value) {
  if (field.dataset.kind === "switch") inputs(field)[0].checked = Boolean(value);
  else if (field.dataset.kind !== "file") {
    const wanted = Array.isArray(value) ? value : [value];
    while (field.classList.contains("many") && inputs(field).length < wanted.length) another(field);
    inputs(field).forEach((input, index) => { input.value = wanted[index] ?? ""; });
  }
}

function filled() {
  const values = {};
  for (const field of fields.filter(isShown)) {
    const value = valueOf(field);
    if (value === true || value.length) values[field.dataset.name] = value;
  }
  return values;
}

// What is filled in goes along from mode to mode.
let before = mode();
function turn() {
  const old = Object.fromEntries(fields.filter(isShown).map((field) => [field.dataset.name, valueOf(field)]));
  old.prompts ??= old.prompt ? [old.prompt] : undefined;
  old.prompt ??= old.prompts?.[0];
  for (const field of fields) field.hidden = !field.dataset.modes.split(" ").includes(mode());
  for (const field of fields.filter(isShown)) if (old[field.dataset.name] !== undefined) fill(field, old[field.dataset.name]);
  if (before !== mode()) { all = false; touched.clear(); }
  before = mode();
  $("about").textContent = form.querySelector("[name=mode]:checked").dataset.help;
  for (const group of form.querySelectorAll(".group")) group.hidden = ![...group.querySelectorAll(".field")].some(isShown);
  soon();
}

function count() {
  for (const group of form.querySelectorAll(".group")) {
    const set = [...group.querySelectorAll(".field")].filter((field) => isShown(field) && valueOf(field) !== "" && valueOf(field) !== false && valueOf(field).length !== 0);
    group.querySelector("[data-set]").textContent = set.length ? `${set.length} set` : "";
  }
}

// Faults
function faultOf(field, text) {
  const line = field.querySelector(".fault");
  line.textContent = text ?? "";
  line.hidden = !text;
  for (const input of field.querySelectorAll("input, select, textarea")) {
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
}

function whose({ field, detail }) {
  const option = field?.startsWith("--") ? field : detail.match(/--[a-z-]+/)?.[0];
  const name = field?.replace(/^requests\.\d+\./, "").split(".")[0];
  const of = (test) => fields.find((one) => isShown(one) && test(one.dataset));
  return of((data) => data.option === (option ?? field)) ?? of((data) => data.name === name) ?? null;
}

function tellFault(problem) {
  for (const field of fields) faultOf(field);
  $("fault").hidden = true;
  if (!problem) return null;
  const field = whose(problem);
  const said = problem.field ? problem.detail.replace(`${problem.field}: `, "") : problem.detail;
  const text = [said, problem.hint].filter(Boolean).join(" – ");
  if (field && (all || touched.has(field.dataset.name))) faultOf(field, text);
  else if (!field && (all || touched.size)) {
    $("fault").textContent = text;
    $("fault").hidden = false;
  }
  return field;
}

// What is filled in, read by the server
let timer = null, asking = null;
function soon() {
  count();
  clearTimeout(timer);
  timer = setTimeout(check, SOON);
}

async function check() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const told = await ask("/submit/read", { method: "POST", body: { mode: mode(), values: filled() }, signal });
    $("command").textContent = told.command;
    $("render").textContent = told.jobs > 1 ? `Render ${told.jobs.toLocaleString("en")} pictures` : "Render";
    tellFault(told.problem);
    back("form");
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (problem.status === 401) signedOut();
    else away(problem, "form");
  }
}

// Submitting: the same again after a lost answer is the same submission.
let key = null, sending = false;
async function send() {
  if (sending) return;
  sending = true;
  all = true;
  $("render").disabled = true;
  clearTimeout(timer);
  asking?.abort();
  try {
    const told = await ask("/submit/read", { method: "POST", body: { mode: mode(), values: filled(), whole: true } });
    $("command").textContent = told.command;
    if (told.problem) throw new Problem({ ...told.problem });
    tellFault(null);
    const body = new FormData();
    body.append("submission", JSON.stringify({ requests: told.requests }));
    for (const [name, file] of files) if (named(name)) body.append(name, file);
    key ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
    const made = await ask("/api/v1/jobs", { method: "POST", body, headers: { "Idempotency-Key": key } });
    key = null;
    show(made);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status) key = null;
    const field = tellFault(problem);
    const place = field?.querySelector("input, select, textarea");
    field?.closest("details")?.setAttribute("open", "");
    place?.focus();
  } finally {
    sending = false;
    $("render").disabled = false;
  }
}

function another(field) {
  const line = field.querySelector(".one"), made = line.cloneNode(true), input = made.firstElementChild;
  input.value = "";
  input.removeAttribute("id");
  field.querySelector(".several").append(made);
  return input;
}

for (const field of fields) {
  field.addEventListener("input", () => { touched.add(field.dataset.name); key = null; soon(); });
  field.querySelector("[data-add]")?.addEventListener("click", () => another(field).focus());
}
for (const choice of form.elements.mode) choice.addEventListener("change", turn);
form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  else if (event.key === "Enter" && event.target.matches("input")) event.preventDefault();
});
onFile(form, (name) => {
  touched.add(name);
  key = null;
  if (!named(name) && files.has(name)) {
    form.elements.mode.value = "img2img";
    turn();
  }
  soon();
});
for (const name of ["init", "mask"]) if (form.dataset[name]) pictureFrom(form.dataset[name], name, form.dataset.source);
turn();
(named("prompt") ?? named("prompts"))?.querySelector("textarea").focus();
