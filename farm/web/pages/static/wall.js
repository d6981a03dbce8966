// A wall of cells of one size, of which only those that are seen are in the page: 100,000 cost no more than fifty.

const GAP = 6;
const BEYOND = 600;  // pixels before and after what is seen
const SMALLEST = 150, FEWEST = 2;

// `make(cell)` prepares a new cell, `fill(cell, index)` shows the entry of an index in it.
export function wall(element, { make, fill }) {
  let number = 0, columns = 1, side = SMALLEST, drawn = null;
  const cells = new Map(), spare = [];

  function measure() {
    const width = element.clientWidth;
    columns = Math.max(FEWEST, Math.floor((width + GAP) / (SMALLEST + 40 + GAP)));
    side = (width - GAP * (columns - 1)) / columns;
    element.style.height = `${Math.max(0, Math.ceil(number / columns) * (side + GAP) - GAP)}px`;
    for (const [index, cell] of cells) place(cell, index);
    draw();
  }

  function place(cell, index) {
    const row = Math.floor(index / columns), column = index % columns;
    cell.style.width = cell.style.height = `${side}px`;
    cell.style.transform = `translate(${column * (side + GAP)}px, ${row * (side + GAP)}px)`;
  }

  function draw() {
    drawn = null;
    const top = -element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - BEYOND) / (side + GAP))) * columns;
    const last = Math.min(number, Math.ceil((top + innerHeight + BEYOND) / (side + GAP)) * columns);
    for (const [index, cell] of cells) {
      if (index >= first && index < last || cell === document.activeElement) continue;
      cells.delete(index);
      cell.hidden = true;
      spare.push(cell);
    }
    for (let index = last - 1; index >= first; index--) if (!cells.has(index)) show(index);
  }

  function show(index) {
    const cell = spare.pop() ?? make();
    cell.hidden = false;
    element.insertBefore(cell, cells.get(index + 1) ?? null);  // in their order, for those who hear the page
    cells.set(index, cell);
    place(cell, index);
    fill(cell, index);
    return cell;
  }

  const soon = () => { drawn ??= requestAnimationFrame(draw); };
  addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(measure).observe(element);

  return {
    get columns() { return columns; },
    // There are so many entries now, and all of them may be others.
    reset(count) {
      number = count;
      for (const [index, cell] of cells) if (index >= count) { cells.delete(index); cell.hidden = true; spare.push(cell); }
      measure();
      for (const [index, cell] of cells) fill(cell, index);
    },
    refill(from, to) {
      for (const [index, cell] of cells) if (index >= from && index < to) fill(cell, index);
    },
    // Brings an entry to where it is seen. Returns its cell.
    reach(index) {
      const top = Math.floor(index / columns) * (side + GAP) + element.getBoundingClientRect().top;
      if (top < 80) scrollBy(0, top - 80);
      else if (top + side > innerHeight) scrollBy(0, top + side - innerHeight + 12);
      draw();
      return cells.get(index);
    },
  };
}
