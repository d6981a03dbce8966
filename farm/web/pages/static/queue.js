// The queue: steps as they are done, what comes and goes, previews of what is seen, and what is done with jobs.
import { ask } from "./api.js";
import { refresh, wishes } from "./fresh.js";
import { follow } from "./live.js";
import { previews } from "./previews.js";
import { later, tell, tellProblem } from "./toast.js";

const ESTIMATES_SECONDS = 15;
const list = document.getElementById("jobs");
const wish = wishes();
const going = new Map();  // what is about to be done with a job or batch, by name

// Live: steps are filled in here; where more has changed the server is asked for the page again.
const row = (job) => document.getElementById(job);
const paces = new Map();

function told(status) {
  const shown = row(status.id);
  if (!shown) return "newest" in list.dataset ? wish() : undefined;
  const { state, attempt, step } = shown.dataset;
  if (status.state !== state || status.attempt !== Number(attempt)) return wish();
  if (status.state !== "running" || status.step === Number(step)) return;
  shown.dataset.step = status.step;
  shown.querySelector("progress").value = status.step;
  shown.querySelector("progress").setAttribute("value", status.step);
  const pace = paceOf(status);
  const rate = pace ? ` · ${pace < 1 ? (1 / pace).toFixed(1) + " s a step" : pace.toFixed(1) + " steps/s"}` : "";
  shown.querySelector(".steps").textContent = `step ${status.step} of ${status.steps}${rate}`;
  if (pace) shown.querySelector(".when").textContent = `about ${about((status.steps - status.step) / pace)} left`;
}

// Steps a second of a job, over the last few reports of it.
function paceOf(status) {
  const now = performance.now() / 1000;
  const seen = [...(paces.get(status.id) ?? []), { now, step: status.step }].slice(-8);
  paces.set(status.id, seen);
  const [first] = seen;
  return now - first.now > .5 ? (status.step - first.step) / (now - first.now) : null;
}

function about(seconds) {
  if (seconds < 60) return `${Math.max(5, 5 * Math.round(seconds / 5))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

follow(null, { status: told, again: wish });
setInterval(() => {
  if (!document.hidden && list.querySelector("[data-state=queued], [data-state=running]")) wish();
}, 1000 * ESTIMATES_SECONDS);
previews(list, ".job[data-state=running]");

// What is chosen, and done with it a moment later, so that it can be undone.
const FOR = { cancel: ["queued", "running"], retry: ["failed", "cancelled"] };
const boxes = () => [...list.querySelectorAll("input[type=checkbox]:checked:not(:disabled)")];

function chosen() {
  for (const batch of list.querySelectorAll(".batch")) {
    const whole = batch.querySelector(".batch-head input");
    for (const box of batch.querySelectorAll(".job input")) {
      if (whole?.checked) box.checked = true;
      box.disabled = Boolean(whole?.checked);
    }
  }
  const states = boxes().flatMap((box) => [...box.closest(".job, .batch").parentElement === list
    ? box.closest(".batch").querySelectorAll(".job") : [box.closest(".job")]].map((job) => job.dataset.state));
  const number = boxes().length;
  const label = document.getElementById("chosen");
  if (!label) return;
  label.textContent = number ? `${number} chosen` : "none chosen";
  for (const [what, of] of Object.entries(FOR)) {
    document.getElementById(what).disabled = !states.some((state) => of.includes(state));
  }
}

function mark() {
  for (const job of list.querySelectorAll(".job")) {
    job.classList.toggle("going", going.has(job.id) || going.has(job.id.split("-")[0]));
  }
}

function act(what) {
  const names = boxes().map((box) => box.value);
  for (const box of list.querySelectorAll("input[type=checkbox]")) { box.checked = false; box.disabled = false; }
  for (const name of names) going.set(name, what);
  mark();
  chosen();
  const release = () => { for (const name of names) going.delete(name); mark(); };
  const doing = { cancel: "Cancelling", retry: "Queueing again" }[what];
  const of = names.length === 1 ? names[0] : `${names.length} jobs or batches`;
  later(`${doing} ${of}…`, async (leaving) => {
    try {
      const answer = await ask(`/api/v1/${what}`, { method: "POST", body: { names }, keepalive: leaving });
      const number = (answer.jobs ?? Object.values(answer.before).filter((state) => FOR.cancel.includes(state))).length;
      tell(`${number} ${number === 1 ? "job" : "jobs"} ${what === "cancel" ? "cancelled" : "queued again"}`);
    } catch (problem) {
      tellProblem(problem);
    }
    release();
    refresh();
  }, release);
}

for (const what of Object.keys(FOR)) document.getElementById(what)?.addEventListener("click", () => act(what));
list.addEventListener("change", chosen);
document.addEventListener("fresh", () => { mark(); chosen(); });

// The place is in the address, so that a page which is opened again is where it was.
document.addEventListener("scrollend", () => {
  const top = [...list.querySelectorAll(".job")].find((job) => job.getBoundingClientRect().bottom > 80);
  const place = scrollY > 40 && top ? `#${top.id}` : "";
  history.replaceState(history.state, "", location.pathname + location.search + place);
});
chosen();
