// A job's page: its steps and events as they happen, a preview until there is a picture, and what is done with it.
import { BY, act } from "./acts.js";
import { ask } from "./api.js";
import "./copy.js";
import { refresh, wishes } from "./fresh.js";
import { follow } from "./live.js";
import { previews } from "./previews.js";
import { showSteps } from "./steps.js";
import { tellProblem } from "./toast.js";

const MOST_EVENTS = 50;
const shown = document.getElementById("job");
const job = shown.dataset.job;
const wish = wishes(1);
let last = "";

follow([job], { status: told, again: wish, problem: wish });
previews(shown, ".preview[data-state=running]");

function told(status) {
  note(status);
  if (!showSteps(shown, status)) wish();
  // What was logged of an attempt comes a moment after its end.
  if (status.attempt && status.state !== "running") setTimeout(wish, 1000 * AGAIN_SECONDS);
}

// What could not be read of a bucket that is away is read as soon as that can be.
const AGAIN_SECONDS = 3;
const lookAgain = () => { if (document.getElementById("unread")) setTimeout(wish, 1000 * AGAIN_SECONDS); };
document.addEventListener("fresh", lookAgain);
lookAgain();

// One line for each state and attempt.
function note({ state, attempt, worker, error }) {
  const text = [state, attempt ? `attempt ${attempt}` : "", worker ?? "", error?.kind ?? ""].filter(Boolean).join(" · ");
  if (text === last) return;
  const isFirst = last === "";
  last = text;
  const line = document.createElement("li");
  // What the page begins with happened before it was opened, and is told above.
  line.textContent = isFirst ? text : `${new Date().toLocaleTimeString()} ${text}`;
  const events = document.getElementById("events");
  events.append(line);
  if (events.children.length > MOST_EVENTS) events.firstChild.remove();
}

shown.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const what = button.dataset.act;
  if (what in BY) return act(what, [job], refresh);
  button.disabled = true;
  if (what !== "again") return act(what, [job], () => { button.disabled = false; refresh(); });
  try {
    const { jobs } = await ask(`/api/v1/jobs/${job}/again`, { method: "POST" });
    location.assign(`/jobs/${jobs[0]}`);
  } catch (problem) {
    tellProblem(problem);
    button.disabled = false;
  }
});

// The page of how it came to be can be large: it is asked for when it is wanted. It has no origin, and asks for nothing.
shown.addEventListener("toggle", (event) => {
  const details = event.target;
  if (details.id !== "trace" || !details.open || details.querySelector("iframe")) return;
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.title = "How the picture came to be";
  frame.src = `/jobs/${job}/trace`;
  details.append(frame);
}, true);
