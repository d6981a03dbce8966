// Makes a trace page move: one step is shown at a time, in the frames and in every curve. All that it shows is in the
// page already; without it, the page shows every frame.
(() => {
  "use strict";

  const FRAME_MILLISECONDS = 1000 / 12;  // as the video has them
  const root = document.documentElement;
  const frames = [...document.querySelectorAll("#frames > li")];
  const plots = [...document.querySelectorAll(".plot")].map(plotOf);

  theme(document.getElementById("theme"));
  const scrubber = frames.length ? scrubberOf() : null;
  plots.forEach(pointed);

  function theme(button) {
    const isDark = () =>
      root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      name();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name();
  }

  // A plot: where its steps lie, its cursor, and the rows of its table by step.
  function plotOf(figure) {
    const { first, last, left, right } = Object.fromEntries(
      Object.entries(figure.dataset).map(([key, value]) => [key, Number(value)]));
    return {
      svg: figure.querySelector("svg"),
      cursor: figure.querySelector(".cursor"),
      values: [...figure.querySelectorAll(".legend .value")],
      rows: new Map([...figure.querySelectorAll("tr[data-step]")].map((row) => [Number(row.dataset.step), row])),
      first, last,
      x: (step) => left + (step - first) / Math.max(1, last - first) * (right - left),
      step: (x) => Math.round(first + (x - left) / (right - left) * (last - first)),
    };
  }

  // Moves the cursors of all plots to a step, and says each curve's value there beside its name.
  function point(step) {
    for (const plot of plots) {
      const inside = step >= plot.first && step <= plot.last;
      plot.cursor.setAttribute("visibility", inside ? "visible" : "hidden");
      plot.cursor.setAttribute("x1", plot.x(step));
      plot.cursor.setAttribute("x2", plot.x(step));
      const cells = plot.rows.get(step)?.querySelectorAll("td");
      plot.values.forEach((value, index) => { value.textContent = cells ? cells[index].textContent : ""; });
    }
  }

  // A click or a drag in a plot goes to the step there, or to the frame that is nearest to it.
  function pointed(plot) {
    const go = (event) => {
      const box = plot.svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * plot.svg.viewBox.baseVal.width / box.width;
      const step = Math.min(plot.last, Math.max(plot.first, plot.step(x)));
      if (scrubber) scrubber.near(step);
      else point(step);
    };
    plot.svg.addEventListener("pointerdown", go);
    plot.svg.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
  }

  function scrubberOf() {
    const range = document.getElementById("step");
    const play = document.getElementById("play");
    const where = document.getElementById("where");
    const steps = frames.map((frame) => Number(frame.dataset.step));
    let timer = null;

    function show(index) {
      range.value = index;
      frames.forEach((frame, other) => { frame.hidden = other !== index; });
      const told = `step ${steps[index]}, σ ${frames[index].dataset.sigma}`;
      where.textContent = told;
      range.setAttribute("aria-valuetext", told);
      point(steps[index]);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }

    function toggle() {
      if (timer !== null) return stop();
      if (range.valueAsNumber === frames.length - 1) show(0);
      play.textContent = "Pause";
      timer = setInterval(() => {
        show(Math.min(range.valueAsNumber + 1, frames.length - 1));
        if (range.valueAsNumber === frames.length - 1) stop();
      }, FRAME_MILLISECONDS);
    }

    function move(index) {
      stop();
      show(Math.min(frames.length - 1, Math.max(0, index)));
    }

    // The range has its own keys; elsewhere on the page the arrows are free, unless something else takes them.
    function pressed(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const busy = event.target.closest("input, video, .table, summary");
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (by && !busy) move(range.valueAsNumber + by);
      else if (event.key === " " && event.target === range) toggle();
      else return;
      event.preventDefault();
    }

    root.classList.add("scripted");
    document.getElementById("scrubber").hidden = false;
    range.addEventListener("input", () => move(range.valueAsNumber));
    play.addEventListener("click", toggle);
    document.addEventListener("keydown", pressed);
    show(frames.length - 1);
    return {
      near(step) {
        const distances = steps.map((other) => Math.abs(other - step));
        move(distances.indexOf(Math.min(...distances)));
      },
    };
  }
})();
