// Two pictures, one over the other with an edge that moves, or side by side; and in which settings they differ.
import { facts, picture, prompts } from "./told.js";

const $ = (id) => document.getElementById(id);
const pair = $("pair"), two = $("two"), share = $("share");

export function compare(first, second) {
  $("first").src = picture(first.job);
  $("second").src = picture(second.job);
  const tables = [first, second].map((entry) => new Map([["Prompt", prompts(entry)], ...facts(entry), ...Object.entries(entry.labels)]));
  const names = [...new Set(tables.flatMap((table) => [...table.keys()]))];
  const differing = names.filter((name) => tables[0].get(name) !== tables[1].get(name));
  $("differences").replaceChildren(...differing.map((name) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head, ...tables.map((table) => {
      const cell = document.createElement("td");
      cell.textContent = table.get(name) ?? "–";
      cell.dir = "auto";
      return cell;
    }));
    return row;
  }));
  slide(50);
  pair.showModal();
  share.focus();
}

function slide(percent) {
  share.value = percent;
  two.style.setProperty("--share", `${percent}%`);
}

share.addEventListener("input", () => slide(share.value));
two.addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && !event.buttons) return;
  const { left, width } = two.getBoundingClientRect();
  slide(Math.round(100 * Math.min(1, Math.max(0, (event.clientX - left) / width))));
});
$("beside").addEventListener("click", () => {
  const isBeside = two.classList.toggle("beside");
  $("beside").setAttribute("aria-pressed", String(isBeside));
  share.disabled = isBeside;
});
$("part").addEventListener("click", () => pair.close());
