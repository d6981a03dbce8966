"use strict";
const dialog = document.querySelector("dialog");
const picture = dialog.querySelector("img");
const tables = Array.from(document.querySelectorAll("table"));
const STEPS = {
  ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
  PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
};
let current = null;

function show(cell) {
  current = cell;
  picture.src = cell.querySelector("img").src;
  picture.alt = cell.dataset.place;
  for (const part of ["place", "title", "detail", "name"]) {
    dialog.querySelector("." + part).textContent = cell.dataset[part];
  }
  if (!dialog.open) dialog.showModal();
}

// The next picture in a direction: empty cells are passed over.
function neighbour(cell, [turn, down, across]) {
  const here = cell.closest("td");
  let page = tables.indexOf(here.closest("table")), row = here.parentElement.rowIndex, column = here.cellIndex;
  for (;;) {
    page += turn; row += down; column += across;
    const there = tables[page]?.rows[row]?.cells[column];
    if (!there || there.tagName !== "TD") return null;
    const found = there.querySelector("button");
    if (found) return found;
  }
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (cell) show(cell);
  else if (event.target === dialog || event.target.closest("dialog button")) dialog.close();
});
document.addEventListener("keydown", (event) => {
  const from = dialog.open ? current : document.activeElement.closest(".cell");
  const step = STEPS[event.key];
  if (!from || !step || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const next = neighbour(from, step);
  if (!next) return;
  if (dialog.open) show(next);
  else next.focus();
});
dialog.addEventListener("close", () => current?.focus());
