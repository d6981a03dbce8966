// The page of an error that passes: asks again until the page that was asked for can be shown.
import { ask } from "./api.js";

const SECONDS = 3;

async function look() {
  try {
    await ask(location.href, { headers: { Accept: "text/html" }, as: "text" });
  } catch (problem) {
    if (problem.status === 503 || problem.status === 0) return setTimeout(look, 1000 * SECONDS);
  }
  location.reload();
}

setTimeout(look, 1000 * SECONDS);
