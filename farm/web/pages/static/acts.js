// What is done with jobs that are there: a moment later, so that it can be undone.
import { ask } from "./api.js";
import { later, tell, tellProblem } from "./toast.js";

// The states in which there is something to cancel or to retry.
export const FOR = { cancel: ["queued", "running"], retry: ["failed", "cancelled"] };

// Cancels or retries jobs and batches by name, unless it is undone; `over` is called when it is done, or is not to be.
export function act(what, names, over) {
  const doing = { cancel: "Cancelling", retry: "Queueing again" }[what];
  const done = { cancel: "cancelled", retry: "queued again" }[what];
  const of = names.length === 1 ? names[0] : `${names.length} jobs or batches`;
  const send = async (leaving) => {
    try {
      const answer = await ask(`/api/v1/${what}`, { method: "POST", body: { names }, keepalive: leaving });
      const number = (answer.jobs ?? Object.values(answer.before).filter((state) => FOR.cancel.includes(state))).length;
      tell(`${number} ${number === 1 ? "job" : "jobs"} ${done}`);
    } catch (problem) {
      tellProblem({ detail: `${of}: not ${done}, for ${problem.detail ?? problem}`, hint: problem.hint }, () => send(false));
    }
    over(true);
  };
  later(`${doing} ${of}…`, send, () => over(false));
}
