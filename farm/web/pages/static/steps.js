// The steps of a job as they are done: its bar, its pace, and about how long is left.
const paces = new Map();

// Shows a status in an element with the job's `data-state`, `data-attempt`, `data-priority` and `data-step`. Returns false where more
// has changed than its steps.
export function showSteps(shown, status) {
  const { state, attempt, step, priority } = shown.dataset;
  if (status.state !== state || status.attempt !== Number(attempt) || status.priority !== Number(priority)) return false;
  if (status.state !== "running" || status.step === Number(step)) return true;
  shown.dataset.step = status.step;
  shown.querySelector("progress").value = status.step;
  const pace = paceOf(status);
  const rate = pace ? ` · ${pace < 1 ? (1 / pace).toFixed(1) + " s a step" : pace.toFixed(1) + " steps/s"}` : "";
  shown.querySelector(".steps").textContent = `step ${status.step} of ${status.steps}${rate}`;
  if (pace) shown.querySelector(".when").textContent = `about ${about((status.steps - status.step) / pace)} left`;
  return true;
}

// Steps a second, over the last few reports of a job.
function paceOf({ id, attempt, step }) {
  const now = performance.now() / 1000;
  const before = paces.get(id);
  const seen = [...(before?.attempt === attempt ? before.seen : []), { now, step }].slice(-8);
  paces.delete(id);
  paces.set(id, { attempt, seen });
  if (paces.size > 500) paces.delete(paces.keys().next().value);
  const [first] = seen;
  return now - first.now > .5 && step > first.step ? (step - first.step) / (now - first.now) : null;
}

function about(seconds) {
  if (seconds < 60) return `${Math.max(5, 5 * Math.round(seconds / 5))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
