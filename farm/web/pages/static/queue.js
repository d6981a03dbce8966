// The queue: steps as they are done, what comes and goes, previews of what is seen, and what is done with jobs.
import { BY, FOR, act, jobs } from "./acts.js";
import { refresh, wishes } from "./fresh.js";
import { follow } from "./live.js";
import { previews } from "./previews.js";
import { showSteps } from "./steps.js";

const ESTIMATES_SECONDS = 15;
const list = document.getElementById("jobs");
const wish = wishes();
const going = new Map();  // what is about to be done with a job or batch, by name

// Steps are filled in here; where more has changed, the server is asked for the page again.
function told(status) {
  const row = document.getElementById(status.id);
  if (row ? !showSteps(row, status) : "newest" in list.dataset) wish();
}

follow(null, { status: told, again: wish });
setInterval(() => {
  if (!document.hidden && list.querySelector("[data-state=queued], [data-state=running]")) wish();
}, 1000 * ESTIMATES_SECONDS);
previews(list, ".job[data-state=running]");

// What is chosen, and done with it a moment later, so that it can be undone.
const boxes = () => [...list.querySelectorAll("input[type=checkbox]:checked:not(:disabled)")];

// How many jobs are chosen. Of a whole batch not all need be on the page, and it can be there more than once.
function size(chosen) {
  const heads = chosen.map((box) => box.closest(".batch-head"));
  const batches = new Map(chosen.flatMap((box, at) => heads[at] ? [[box.value, Number(heads[at].dataset.jobs)]] : []));
  const single = chosen.filter((box, at) => !heads[at] && !batches.has(box.value.split("-")[0]));
  return [...batches.values()].reduce((sum, number) => sum + number, single.length);
}

function chosen() {
  for (const batch of list.querySelectorAll(".batch")) {
    const whole = batch.querySelector(".batch-head input");
    for (const box of batch.querySelectorAll(".job input")) {
      if (whole?.checked) box.checked = true;
      box.disabled = Boolean(whole?.checked);
    }
  }
  const states = boxes().flatMap((box) => {
    const head = box.closest(".batch-head");
    const rows = [...(head?.parentElement.querySelectorAll(".job") ?? [box.closest(".job")])];
    const more = head && Number(head.dataset.jobs) > rows.length;  // which can be in any state
    return more ? Object.values(FOR).flat() : rows.map((job) => job.dataset.state);
  });
  const number = size(boxes());
  const label = document.getElementById("chosen");
  if (!label) return;
  label.textContent = number ? `${jobs(number)} chosen` : "none chosen";
  for (const [what, of] of Object.entries(FOR)) {
    document.getElementById(what).disabled = !states.some((state) => of.includes(state));
  }
}

function mark() {
  for (const job of list.querySelectorAll(".job")) {
    job.classList.toggle("going", going.has(job.id) || going.has(job.id.split("-")[0]));
  }
}

function begin(what) {
  const names = boxes().map((box) => box.value);
  if (what in BY) return act(what, names, refresh);  // what is chosen stays so, and can be raised again
  for (const box of list.querySelectorAll("input[type=checkbox]")) { box.checked = false; box.disabled = false; }
  for (const name of names) going.set(name, what);
  mark();
  chosen();
  act(what, names, (isDone) => {
    for (const name of names) going.delete(name);
    mark();
    if (isDone) refresh();
  });
}

for (const what of Object.keys(FOR)) document.getElementById(what)?.addEventListener("click", () => begin(what));
list.addEventListener("change", chosen);
document.addEventListener("fresh", () => { mark(); chosen(); });

// The place is in the address, so that a page which is opened again is where it was.
document.addEventListener("scrollend", () => {
  const top = [...list.querySelectorAll(".job")].find((job) => job.getBoundingClientRect().bottom > 120);
  const place = scrollY > 40 && top ? `#${top.id}` : "";
  history.replaceState(history.state, "", location.pathname + location.search + place);
});
chosen();
