// Makes a comparison move: all jobs show their frames of like noise, and differences of their pictures on demand.
(() => {
  const DEEPEST = 255;
  const reference = document.getElementById("difference");
  const factor = document.getElementById("factor");
  const ways = document.getElementById("ways");
  const levels = ways ? ways.dataset.levels.split(" ").map(Number) : [];
  const views = [...document.querySelectorAll(".view")].filter((view) => view.querySelector("img")).map(viewOf);
  const plots = plotsOf();
  let turn = 0;

  // A picture of a job, or its frames, of which `at` has the index for each place of the scrubber.
  function viewOf(element) {
    const frames = [...element.querySelectorAll(".frames > li")];
    return {
      ...element.dataset,
      plain: element.querySelector(".plain"),
      canvas: element.querySelector("canvas"),
      apart: element.querySelector(".apart"),
      here: element.querySelector(".here"),
      frames,
      at: (element.dataset.at || "").split(" ").map(Number),
      image: () => (frames.find((frame) => !frame.hidden) || element).querySelector("img"),
    };
  }

  const point = (level) => plots.forEach((plot) => plot.point(level));

  function show(index) {
    for (const view of views.filter((view) => view.frames.length)) {
      view.frames.forEach((frame, other) => { frame.hidden = other !== view.at[index]; });
      view.here.textContent = view.frames[view.at[index]].querySelector(".number").textContent;
    }
    point(levels[index]);
    compare();
    return `σ ${Number(levels[index].toPrecision(4))}`;
  }

  // Shows the pictures, or how they differ from those of the job that is chosen. What is under way for an earlier
  // choice is given up.
  function compare() {
    const mine = ++turn;
    for (const view of views) {
      const other = views.find((other) => other.group === view.group && other.job === reference.value);
      if (other && other !== view) draw(view, other, () => mine === turn);
      else put(view, false, other ? "The others are compared with this." : missing());
    }
  }

  function missing() {
    return reference.value ? `No difference: ${reference.value} has none here.` : "";
  }

  function put(view, isDrawn, told) {
    view.plain.hidden = isDrawn;
    view.canvas.hidden = !isDrawn;
    view.apart.hidden = !told;
    view.apart.textContent = told;
  }

  async function draw(view, other, isWanted) {
    let told, isDrawn = false;
    try {
      const [one, two] = await Promise.all([pixels(view.image()), pixels(other.image())]);
      if (!isWanted()) return;
      if (one.width !== two.width || one.height !== two.height) told = `No difference: ${other.job} has another size.`;
      else {
        const { mean, most } = subtract(one, two, Number(factor.value));
        view.canvas.width = one.width;
        view.canvas.height = one.height;
        view.canvas.getContext("2d").putImageData(one, 0, 0);
        const levels = `${mean.toPrecision(3)} of ${DEEPEST} levels on average, ${most} at most`;
        told = `|${view.job} − ${other.job}| × ${factor.value}: ${most ? levels : "the same in every pixel"}`;
        view.canvas.setAttribute("aria-label", told);
        isDrawn = true;
      }
    } catch {  // what no browser can decode, or has no room for
      if (!isWanted()) return;
      told = "No difference: one of the two cannot be read.";
    }
    put(view, isDrawn, told);
  }

  async function pixels(image) {
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // Makes of the first picture the difference of the two, amplified. Returns the difference as it is, in levels.
  function subtract(one, two, times) {
    let sum = 0, most = 0;
    for (let index = 0; index < one.data.length; index++) {
      if (index % 4 === 3) continue;  // which is opacity
      const apart = Math.abs(one.data[index] - two.data[index]);
      sum += apart;
      most = Math.max(most, apart);
      one.data[index] = Math.min(DEEPEST, apart * times);
    }
    return { mean: sum / (one.data.length * 3 / 4), most };
  }

  themed(document.getElementById("theme"));
  document.getElementById("choices").hidden = false;
  const move = levels.length ? scrubberOf(levels.length, show) : null;
  const places = levels.map(Math.log);
  const go = move ? (level) => move(nearest(places, Math.log(level))) : point;
  plots.forEach((plot) => pointed(plot, go));
  reference.addEventListener("change", compare);
  factor.addEventListener("change", compare);
  compare();
})();
