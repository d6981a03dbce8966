// Buttons with `data-copy`, the id of what they copy.
import { tell } from "./toast.js";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const shown = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(shown.textContent);
    tell("Copied");
  } catch { // it is not let: then it is marked, for the keys that copy
    getSelection().selectAllChildren(shown);
    tell("Marked: copy it with your keys");
  }
});
