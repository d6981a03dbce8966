// Pictures that go along with a submission: chosen, dropped or pasted anywhere, and seen before they are sent.
import { ask } from "./api.js";
import { tellProblem } from "./toast.js";

const FIRST = "init";
const KINDS = ["image/png", "image/jpeg", "image/webp"];
export const files = new Map();
let changed = () => {}, root = null;

// Calls `told` with the name of a field whose picture has come or gone.
export function onFile(form, told) {
  [root, changed] = [form, told];
  for (const field of form.querySelectorAll(".field[data-kind=file]")) {
    const { name } = field.dataset;
    field.querySelector("input").addEventListener("change", (event) => put(name, event.target.files[0]));
    field.querySelector("[data-away]").addEventListener("click", () => put(name, null));
  }
  addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("dragged"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("dragged"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("dragged");
    const name = event.target.closest?.(".field[data-kind=file]")?.dataset.name ?? FIRST;
    take(name, event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(FIRST, event.clipboardData.files) && event.preventDefault());
}

function take(name, given) {
  const file = [...given].find((one) => KINDS.includes(one.type));
  if (file) put(name, file);
  else if (given.length) tellProblem({ detail: "this is no PNG, JPEG or WebP picture" });
  return Boolean(file);
}

function put(name, file) {
  if (file) files.set(name, file);
  else files.delete(name);
  for (const field of root.querySelectorAll(`.field[data-kind=file][data-name="${CSS.escape(name)}"]`)) {
    const picture = field.querySelector("img");
    if (picture.src) URL.revokeObjectURL(picture.src);
    if (file) picture.src = URL.createObjectURL(file);
    else picture.removeAttribute("src");
    picture.hidden = field.querySelector("[data-away]").hidden = false;
    if (!file) { picture.hidden = field.querySelector("[data-away]").hidden = true; field.querySelector("input").value = ""; }
    field.querySelector("[data-said]").textContent = file ? file.name : "or drop or paste it";
  }
  changed(name);
}

// Takes a picture of the farm's own.
export async function pictureFrom(address, name, job) {
  try {
    const blob = await ask(address, { as: "blob" });
    const file = `${job}${name === FIRST ? "" : `.${name}`}.${blob.type.split("/")[1]}`;
    put(name, new File([blob], file, { type: blob.type }));
  } catch (problem) {
    tellProblem(problem);
  }
}
