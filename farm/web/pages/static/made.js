// What was submitted: each job's preview while it is rendered, and then its picture, right beside the form.
import { follow } from "./live.js";
import { previews } from "./previews.js";
import { picture } from "./told.js";

const MOST = 48, MOST_BATCHES = 5;
const results = document.getElementById("results");
const closing = new WeakMap();

function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

// Shows a batch that the API has just made, and follows it.
export function show({ batch, jobs, specs, warnings }) {
  const list = make("ol");
  jobs.slice(0, MOST).forEach((job, index) => list.append(card(job, specs[index])));
  const section = make("section", { className: "made" },
    make("h2", {}, make("a", { href: `/?batch=${batch}`, textContent: `Batch ${batch}` })),
    ...warnings.map((warning) => make("p", { className: "remark", textContent: warning })),
    list);
  if (jobs.length > MOST) {
    section.append(make("p", {}, make("a", { href: `/gallery?q=batch:${batch}`, textContent: `All ${jobs.length} in the gallery` })));
  }
  results.prepend(section);
  while (results.children.length > MOST_BATCHES) {
    closing.get(results.lastElementChild)?.();
    results.lastElementChild.remove();
  }
  closing.set(section, follow([batch], { status: (status) => told(status) }));
  section.scrollIntoView({ block: "nearest" });
}

function card(job, spec) {
  const made = make("li", { id: job, className: "card" },
    make("a", { className: "shot", href: `/jobs/${job}` }),
    make("p", {}, make("span", { className: "badge", textContent: "queued" }), ` seed ${spec.seed}`),
    make("progress", { max: 1, value: 0 }),
    make("p", { className: "why", hidden: true }));
  made.dataset.state = "queued";
  made.querySelector("progress").setAttribute("aria-label", `Steps of ${job}`);
  made.querySelector(".badge").dataset.state = "queued";
  made.querySelector("a").setAttribute("aria-label", `Job ${job}`);
  return made;
}

function told(status) {
  const shown = document.getElementById(status.id);
  if (!shown) return;
  const badge = shown.querySelector(".badge"), bar = shown.querySelector("progress"), why = shown.querySelector(".why");
  if (shown.dataset.state !== status.state) {
    shown.dataset.state = badge.dataset.state = badge.textContent = status.state;
    document.dispatchEvent(new Event("fresh"));  // whose previews are wanted has changed
  }
  bar.max = status.steps;
  bar.value = status.step;
  bar.hidden = ["done", "failed", "cancelled"].includes(status.state);
  why.hidden = !status.error;
  why.textContent = status.error ? `${status.error.kind}: ${status.error.message}` : "";
  if (status.state !== "done" || shown.dataset.whole) return;
  shown.dataset.whole = status.id;
  const whole = new Image();
  whole.alt = status.prompt;
  whole.src = picture(status.id);
  whole.addEventListener("load", () => shown.querySelector(".shot").replaceChildren(whole));
}

previews(results, ".card[data-state=running]");
