// What makes a page move: its theme, its plots, and a scrubber under which one place is shown at a time. All that is
// shown is in the page already; without a script, the page shows every frame.
"use strict";

const FRAME_MILLISECONDS = 1000 / 12;  // as the video has them
const root = document.documentElement;

function themed(button) {
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

// Which of some numbers is nearest to another; of two, the first.
function nearest(numbers, to) {
  const distances = numbers.map((number) => Math.abs(number - to));
  return distances.indexOf(distances.reduce((least, distance) => Math.min(least, distance), Infinity));
}

function plotsOf() {
  return [...document.querySelectorAll(".plot")].map(plotOf);
}

// A plot: where its steps lie, or its noise levels, on a logarithmic axis; its cursor; and the numbers of its table.
function plotOf(figure) {
  const [first, last, left, right] =
    ["first", "last", "left", "right"].map((name) => Number(figure.dataset[name]));
  const isOfNoise = "noise" in figure.dataset;
  const along = isOfNoise ? Math.log : (at) => at;
  const back = isOfNoise ? Math.exp : Math.round;
  const length = along(last) - along(first) || 1;
  const rows = [...figure.querySelectorAll("tr[data-step]")].map((row) => ({
    at: along(Number(row.dataset.step)),
    cells: [...row.querySelectorAll("td")].map((cell) => cell.textContent),
  }));
  const values = [...figure.querySelectorAll(".legend .value")];

  // A curve's value at a step; over noise levels, of which each job has its own, that at the nearest one.
  const ofCurves = values.map((_, column) => isOfNoise ? rows.filter((row) => row.cells[column] !== "–") : rows);
  function value(column, at) {
    const places = ofCurves[column].map((row) => row.at);
    const index = isOfNoise ? nearest(places, at) : places.indexOf(at);
    return index < 0 ? "" : ofCurves[column][index].cells[column];
  }

  return {
    svg: figure.querySelector("svg"),
    at(x) {
      const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
      return back(along(first) + share * length);
    },
    // Moves the cursor to a place, and says each curve's value there beside its name.
    point(at) {
      const share = (along(at) - along(first)) / length;
      const cursor = figure.querySelector(".cursor");
      cursor.setAttribute("visibility", share >= 0 && share <= 1 ? "visible" : "hidden");
      cursor.setAttribute("x1", left + share * (right - left));
      cursor.setAttribute("x2", left + share * (right - left));
      values.forEach((shown, column) => { shown.textContent = value(column, along(at)); });
    },
  };
}

// A click or a drag in a plot goes to the place there.
function pointed(plot, go) {
  const moved = (event) => {
    const box = plot.svg.getBoundingClientRect();
    go(plot.at((event.clientX - box.left) * plot.svg.viewBox.baseVal.width / box.width));
  };
  plot.svg.addEventListener("pointerdown", moved);
  plot.svg.addEventListener("pointermove", (event) => { if (event.buttons) moved(event); });
}

// The scrubber over so many places, at the last of them. `show` shows the place of an index, and says what it is.
// Returns what moves it to the place of an index.
function scrubberOf(number, show) {
  const range = document.getElementById("step");
  const play = document.getElementById("play");
  const where = document.getElementById("where");
  let timer = null;

  function shown(index) {
    range.value = index;
    const told = show(index);
    where.textContent = told;
    range.setAttribute("aria-valuetext", told);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function toggle() {
    if (timer !== null) return stop();
    if (range.valueAsNumber === number - 1) shown(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      shown(Math.min(range.valueAsNumber + 1, number - 1));
      if (range.valueAsNumber === number - 1) stop();
    }, FRAME_MILLISECONDS);
  }

  function move(index) {
    stop();
    shown(Math.min(number - 1, Math.max(0, index)));
  }

  // The range has its own keys; elsewhere on the page the arrows are free, unless something else takes them.
  function pressed(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const busy = event.target.closest("input, select, video, .table, summary");
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
  shown(number - 1);
  return move;
}
