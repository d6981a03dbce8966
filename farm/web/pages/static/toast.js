// Short messages at the edge of the page; and things that are done a moment later, so that they can be undone.

const SECONDS = 6;
const held = new Set();

// Says something for a few seconds.
export function tell(text) {
  return toast(text, { seconds: SECONDS });
}

// Says what was done, and how to put it back; `over` is called when that is not offered any more.
export function tellUndoable(text, undo, over) {
  return toast(text, { button: "Undo", seconds: SECONDS, pressed: undo, over });
}

// What went wrong may be tried `again`.
export function tellProblem(problem, again) {
  const toasted = toast(problem.detail ?? String(problem), { button: again ? "Try again" : "Close", pressed: again });
  toasted.element.classList.add("bad");
  if (problem.hint) toasted.element.firstChild.append(document.createElement("br"), problem.hint);
  return toasted;
}

// Does something after a few seconds, unless it is undone: `act` is told whether the page is about to go.
export function later(text, act, undone = () => {}) {
  const one = { done: false };
  const run = (leaving) => {
    if (one.done) return;
    one.done = true;
    held.delete(run);
    toasted.close();
    act(leaving);
  };
  const toasted = toast(text, {
    button: "Undo",
    seconds: SECONDS,
    pressed: () => { one.done = true; held.delete(run); undone(); },
    over: () => run(false),
  });
  held.add(run);
}

addEventListener("pagehide", () => { for (const run of [...held]) run(true); });

// Time stands still while it is pointed at or has the focus.
function toast(text, { button, seconds, pressed = () => {}, over = () => {} }) {
  const element = document.createElement("div");
  element.className = "toast";
  const words = document.createElement("p");
  words.textContent = text;
  element.append(words);
  let left = seconds, timer = null;
  const close = () => { clearInterval(timer); element.remove(); };
  if (button) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = button;
    made.addEventListener("click", () => { close(); pressed(); });
    element.append(made);
  }
  if (seconds) {
    let looked = performance.now();  // a page that nobody sees is called more rarely
    timer = setInterval(() => {
      const passed = (performance.now() - looked) / 1_000;
      looked += 1_000 * passed;
      if (element.matches(":hover, :focus-within")) return;
      left -= passed;
      if (left <= 0) { close(); over(); }
    }, 100);
  }
  document.getElementById("toasts").append(element);
  return { element, close };
}
