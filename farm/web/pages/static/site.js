// What every page has: the way out.
import { ask } from "./api.js";
import { tellProblem } from "./toast.js";

document.getElementById("leave")?.addEventListener("click", async () => {
  try {
    await ask("/api/v1/session", { method: "DELETE" });
    location.assign("/login");
  } catch (problem) {
    tellProblem(problem);
  }
});
