// The workers, models and LoRAs as they are now, and what is added to what the farm keeps and removed from it.
import "./adding.js";
import { ask } from "./api.js";
import { refresh } from "./fresh.js";
import { tell, tellProblem } from "./toast.js";

const SECONDS = 5;

setInterval(() => { if (!document.hidden) refresh(); }, 1000 * SECONDS);

const dialog = document.getElementById("removal");
const force = document.getElementById("force");
let chosen = null;

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-remove]");
  if (!button) return;
  const { remove, kept, waiting, size } = button.dataset;
  chosen = { kept, name: remove };
  document.getElementById("about").textContent = `'${remove}' is removed from the farm: up to ${size} are deleted, what `
    + "others have too is kept. Jobs that are being rendered with it are finished."
    + (kept === "loras" ? " Pictures made with a file that is deleted cannot be made again." : "");
  document.getElementById("force-line").hidden = waiting === "0";
  force.checked = false;
  dialog.returnValue = "";
  dialog.showModal();
});

dialog?.addEventListener("close", async () => {
  if (dialog.returnValue !== "remove") return;
  try {
    const path = `/api/v1/${chosen.kept}/${encodeURIComponent(chosen.name)}?force=${force.checked}`;
    await ask(path, { method: "DELETE" });
    tell(`${chosen.name} is removed`);
  } catch (problem) {
    tellProblem(problem);
  }
  refresh();
});
