// Makes a trace page move: one step is shown at a time, in the frames and in every curve.
(() => {
  const frames = [...document.querySelectorAll("#frames > li")];
  const steps = frames.map((frame) => Number(frame.dataset.step));
  const plots = plotsOf();

  const point = (step) => plots.forEach((plot) => plot.point(step));

  function show(index) {
    frames.forEach((frame, other) => { frame.hidden = other !== index; });
    point(steps[index]);
    return `step ${steps[index]}, σ ${frames[index].dataset.sigma}`;
  }

  themed(document.getElementById("theme"));
  const move = frames.length ? scrubberOf(frames.length, show) : null;
  const go = move ? (step) => move(nearest(steps, step)) : point;
  plots.forEach((plot) => pointed(plot, go));
})();
