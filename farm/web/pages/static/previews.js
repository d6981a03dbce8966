// How jobs look while they are rendered: those that are on the screen, asked for together about once a second.
import { ask } from "./api.js";
import { away, back } from "./live.js";

const MOST = 16;
const SECONDS = 1;
const LONGER = 5;

// Shows previews in the `.shot` of every element of `root` that `selector` finds and that is seen.
export function previews(root, selector) {
  const seen = new Set(), moments = new Map();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target);
  });
  const watch = () => { for (const job of root.querySelectorAll(selector)) watcher.observe(job); };
  document.addEventListener("fresh", watch);
  watch();

  async function look() {
    for (const job of seen) if (!job.isConnected) { seen.delete(job); watcher.unobserve(job); }
    const jobs = [...seen].filter((job) => job.matches(selector)).slice(0, MOST);
    let next = SECONDS;
    if (jobs.length && !document.hidden) {
      const names = new URLSearchParams(jobs.map((job) => ["name", job.id]));
      try {
        const found = await ask(`/api/v1/previews?${names}`);
        back("previews");
        for (const [job, preview] of Object.entries(found)) show(document.getElementById(job), preview);
      } catch (problem) {
        if (problem.type === "ledger-refused") return;  // a site that may only read: there are none
        if (problem.status === 503 || problem.status === 0) away(problem, "previews");
        next = LONGER;
      }
    }
    setTimeout(look, 1000 * next);
  }

  function show(job, { attempt, step, png }) {
    const shot = job?.querySelector(".shot");
    const moment = `${attempt}-${step}`;
    if (!shot || moments.get(job.id) === moment) return;
    moments.set(job.id, moment);
    const picture = shot.querySelector("img") ?? shot.appendChild(document.createElement("img"));
    const old = picture.src;
    picture.alt = "";
    const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
    picture.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    picture.dataset.step = step;
    if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  }

  look();
}
