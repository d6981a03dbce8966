// What is done with jobs that are there, so that it can be undone: a moment later, or where it can be put back at once.
import { ask } from "./api.js";
import { later, tell, tellProblem, tellUndoable } from "./toast.js";

// The states in which there is something to do with a job.
export const FOR = { raise: ["queued"], lower: ["queued"], cancel: ["queued", "running"], retry: ["failed", "cancelled"] };

// By how much a job's priority changes.
export const BY = { raise: 1, lower: -1 };
const MOST_NAMES = 1000;

// Does something with jobs and batches by name, unless it is undone; `over` is called when it is done, or is not to be.
export function act(what, names, over) {
  if (what in BY) return inTurn(() => move(what, names, over));
  const doing = { cancel: "Cancelling", retry: "Queueing again" }[what];
  const done = { cancel: "cancelled", retry: "queued again" }[what];
  const of = names.length === 1 ? names[0] : `${names.length} jobs or batches`;
  const send = async (leaving) => {
    try {
      const answer = await ask(`/api/v1/${what}`, { method: "POST", body: { names }, keepalive: leaving });
      const number = (answer.jobs ?? Object.values(answer.before).filter((state) => FOR.cancel.includes(state))).length;
      tell(`${jobs(number)} ${done}`);
    } catch (problem) {
      tellProblem({ detail: `${of}: not ${done}, for ${problem.detail ?? problem}`, hint: problem.hint }, () => send(false));
    }
    over(true);
  };
  later(`${doing} ${of}…`, send, () => over(false));
}

export const jobs = (number) => `${number} ${number === 1 ? "job" : "jobs"}`;

const prioritise = (body) => ask("/api/v1/jobs/priority", { method: "POST", body });

// One change after the other: each begins with the priorities that the one before it left.
let last = Promise.resolve();
const inTurn = (change) => { last = last.then(change, change); };

// What an Undo puts back, by job, and the one toast that offers it: as long as it stands, further changes join it.
let moved = new Map();
let offered = null;

function forget() {
  offered?.close();
  offered = null;
  moved = new Map();
}

// Raises or lowers the priority of what is queued. Undone, each job has the one again that it had before the first change.
async function move(what, names, over) {
  const done = { raise: "raised", lower: "lowered" }[what];
  try {
    const answer = await prioritise({ names, by: BY[what] });
    const told = Object.entries(answer.jobs);
    const queued = told.filter(([, { state }]) => state === "queued");
    const now = queued.filter(([, { before, priority }]) => before !== priority);
    if (now.length) offer(done, now, told.length - now.length, over);
    else tell(queued.length ? `${jobs(queued.length)} cannot be ${done} any more` : `${jobs(0)} ${done}: none is queued`);
  } catch (problem) {
    tellProblem({ detail: `not ${done}, for ${problem.detail ?? problem}`, hint: problem.hint }, () => act(what, names, over));
  }
  over(true);
}

function offer(done, now, rest, over) {
  for (const [job, { before, priority }] of now) {
    const known = moved.get(job);
    // What somebody else has given it meanwhile is put back, and not undone.
    moved.set(job, { before: known?.priority === before ? known.before : before, priority });
  }
  const levels = new Set(now.map(([, { priority }]) => priority));
  const text = [`${jobs(now.length)} ${done}${levels.size === 1 ? ` to priority ${[...levels][0]}` : ""}`];
  if (rest) text.push(`${rest} could not be`);
  if (moved.size > now.length) text.push(`${moved.size} changed in all`);
  offered?.close();
  offered = tellUndoable(text.join(", "), () => inTurn(() => putBack(moved, over)), forget);
}

async function putBack(back, over) {
  forget();
  const levels = new Set([...back.values()].map(({ before }) => before));
  let number = 0;
  try {
    for (const priority of levels) {
      const names = [...back].filter(([, { before }]) => before === priority).map(([job]) => job);
      for (let from = 0; from < names.length; from += MOST_NAMES) {
        const answer = await prioritise({ names: names.slice(from, from + MOST_NAMES), priority });
        number += Object.values(answer.jobs).filter(({ state }) => state === "queued").length;
      }
    }
    tell(`${jobs(number)} as before${number && levels.size === 1 ? `: priority ${[...levels][0]} again` : ""}`);
  } catch (problem) {
    tellProblem({ detail: `not undone, for ${problem.detail ?? problem}`, hint: problem.hint }, () => inTurn(() => putBack(back, over)));
  }
  over(true);
}
