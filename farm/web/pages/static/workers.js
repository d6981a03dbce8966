// The workers, models and LoRAs as they are now; draining workers, and what is added to what the farm keeps and removed.
import "./adding.js";
import { ask } from "./api.js";
import { refresh, wishes } from "./fresh.js";
import { later, tell, tellProblem } from "./toast.js";

const SECONDS = 5;

setInterval(() => { if (!document.hidden) refresh(); }, 1000 * SECONDS);

// Workers are drained, or let go on, a moment later, so that it can be undone.
const wish = wishes();
const going = new Set();  // the names of those that are about to be told

function mark() {
  for (const button of document.querySelectorAll("[data-tell]")) button.disabled = going.has(button.dataset.name);
}

document.addEventListener("fresh", mark);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-tell]");
  if (button) begin(button.dataset);
});

function begin({ tell: what, worker, name }) {
  going.add(name);
  mark();
  const over = () => { going.delete(name); mark(); };
  const send = async (leaving) => {
    try {
      const path = `/api/v1/workers/${encodeURIComponent(worker)}/${what}`;
      const { workers } = await ask(path, { method: "POST", keepalive: leaving });
      const who = workers.join(", ") || name;
      tell(what === "drain" ? `${who}: no more jobs, until resumed` : `${who}: takes jobs again`);
    } catch (problem) {
      tellProblem(problem);
    }
    over();
    wish();
  };
  later(`${what === "drain" ? "Draining" : "Resuming"} ${worker}…`, send, over);
}

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
