// The workers and models as they are now, and the removal of a model.
import { ask } from "./api.js";
import { refresh } from "./fresh.js";
import { tell, tellProblem } from "./toast.js";

const SECONDS = 5;

setInterval(() => { if (!document.hidden) refresh(); }, 1000 * SECONDS);

const dialog = document.getElementById("removal");
const force = document.getElementById("force");
let name = null;

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-remove]");
  if (!button) return;
  const { remove, waiting, size } = button.dataset;
  name = remove;
  document.getElementById("about").textContent = `'${name}' is removed from the farm: up to ${size} are deleted, what `
    + "other models have too is kept. Jobs that are being rendered with it are finished.";
  document.getElementById("force-line").hidden = waiting === "0";
  force.checked = false;
  dialog.returnValue = "";
  dialog.showModal();
});

dialog?.addEventListener("close", async () => {
  if (dialog.returnValue !== "remove") return;
  try {
    const path = `/api/v1/models/${encodeURIComponent(name)}?force=${force.checked}`;
    await ask(path, { method: "DELETE" });
    tell(`${name} is removed`);
  } catch (problem) {
    tellProblem(problem);
  }
  refresh();
});
