// A chart: uPlot has the axes, the cursor and the selection; the lines are drawn here, from pyramids.

const AXES = { step: "step", relative: "time run", time: "time" };
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, Inter, "Noto Sans", sans-serif';
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 345600, 604800, 1209600, 2592000];
const TIMES = [
  [86400 * 28, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
  [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [0.001, "{ss}.{fff}", "\n{YYYY}-{MM}-{DD} {HH}:{mm}", null, "\n{MM}-{DD} {HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
];

// The labels of an axis, with as many digits as its step has.
function ticks(values, step) {
  const say = (label) => values.map((value) => (value == null ? "" : value === 0 ? "0" : label(value).replaceAll("-", "−")));
  const biggest = Math.max(...values.map((value) => Math.abs(value ?? 0)));
  const power = Math.floor(Math.log10(biggest));
  if (biggest >= 1e9 || biggest < 1e-3) return say((value) => value.toExponential(digits(step / 10 ** power)).replace("e+", "e"));
  for (const [size, from, unit] of [[1e6, 1e6, "M"], [1e3, 1e4, "k"]])
    if (biggest >= from && digits(step / size) <= 2) return say((value) => `${(value / size).toFixed(digits(step / size))}${unit}`);
  return say((value) => value.toLocaleString("en-US", { minimumFractionDigits: digits(step), maximumFractionDigits: digits(step) }));
}

// How many decimals a step has, such as 2 for 0.25.
function digits(step) {
  for (let count = 0; count < 15; count++) if (Math.abs(step * 10 ** count - Math.round(step * 10 ** count)) < 1e-6 * step * 10 ** count) return count;
  return 15;
}

// Where a log axis has labels: at powers of ten, with two and five times them if there are few, or within a decade evenly.
function logSplits(low, high) {
  const decades = Math.log10(high / low);
  const out = [];
  if (decades < 1.2) {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((size) => size * power >= rough);
    for (let count = Math.ceil(low / step); count * step <= high; count++) out.push(count * step);
    return out;
  }
  const every = Math.ceil(decades / 6);
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    if (power % every === 0) for (const size of decades < 3.2 ? [1, 2, 5] : [1]) out.push(size * 10 ** power);
  return out.filter((value) => value >= low && value <= high);
}

class Chart {
  constructor(name) {
    this.name = name;
    this.seen = false; // in or near the window
    this.stale = true;
    this.curves = runs.map((run) => run.curves.get(name)).filter(Boolean);
    this.count = el("span", { class: "bad" });
    this.widen = el("button", { type: "button", "aria-pressed": "false", title: "Wide", "aria-label": `${name}: wide`, onclick: () => this.toggleWide() },
      svg(14, 14, ["path", { d: "M5 1H1v4M9 13h4V9M1 1l4.5 4.5M13 13L8.5 8.5", fill: "none", stroke: "currentColor", "stroke-width": "1.4" }]));
    this.plot = el("div", { class: "plot", tabindex: "0", role: "group", onkeydown: (event) => this.key(event), onblur: () => leave() });
    this.tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.figure = el("figure", {}, el("figcaption", {}, el("h3", {}, name), this.count, this.widen), this.plot, this.tip);
    this.figure.chart = this;
  }

  get visible() {
    return this.curves.filter((curve) => curve.run.shown);
  }

  toggleWide() {
    const wide = this.figure.classList.toggle("wide");
    this.widen.setAttribute("aria-pressed", wide);
    this.resize();
  }

  async load() {
    await Promise.all(this.curves.map((curve) => curve.load()));
    this.loaded = true;
  }

  // Draw anew if anybody can see it, else when somebody can; returns whether it did.
  async refresh() {
    this.stale = true;
    if (!this.seen || this.figure.hidden) return false;
    if (!this.loaded) await this.load();
    if (!this.stale) return false;
    this.draw();
    return true;
  }

  draw() {
    this.stale = false;
    this.range();
    const kind = `${state.axis} ${state.log}`;
    if (this.kind !== kind) this.make(kind);
    else this.u.setData([[...this.xs], [...this.ys]]);
    this.describe();
  }

  // Choose what is drawn: the stretch of x, of each curve the indices in it, the stretch of y.
  range() {
    this.xs = state.view ?? extent(this.visible);
    const pixels = Math.max(100, this.plot.clientWidth - 60);
    let [low, high] = [Infinity, -Infinity];
    const measure = (y, index) => {
      const value = y[index];
      if (!Number.isFinite(value) || (state.log && value <= 0)) return;
      if (value < low) low = value;
      if (value > high) high = value;
    };
    this.lines = this.visible.map((curve) => {
      const x = curve.x(state.axis);
      const first = Math.max(0, at(x, this.xs[0]) - 1); // one beyond the edge, so that the line reaches it
      const last = Math.min(x.length - 1, at(x, this.xs[1]) + 1);
      const line = { curve, x, main: curve, raw: null, indices: [], rawIndices: [] };
      if (last < first) return line;
      if (state.weight) {
        line.main = curve.smooth(state.weight);
        line.rawIndices = curve.pyramid.indices(first, last, pixels);
      }
      line.indices = line.main.pyramid.indices(first, last, pixels);
      if (state.axis === "time") for (const which of ["indices", "rawIndices"]) line[which] = apart(line[which], curve);
      for (const [y, indices] of [[line.main.y, line.indices], [curve.y, line.rawIndices]])
        for (const index of indices) if (index >= 0 && x[index] >= this.xs[0] && x[index] <= this.xs[1]) measure(y, index);
      return line;
    });
    if (low > high) [low, high] = state.log ? [0.1, 1] : [0, 1];
    if (state.log) {
      const room = Math.max((high / low) ** 0.05, 1.02);
      this.ys = [low / room, high * room];
    } else {
      const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      this.ys = [low - room, high + room];
    }
  }

  make(kind) {
    this.u?.destroy();
    this.kind = kind;
    const colour = (name) => () => css(name);
    const line = { stroke: colour("--muted"), font: FONT, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const x = { ...line, space: 70, size: state.axis === "time" ? 36 : 24, gap: 4 };
    if (state.axis === "step") x.values = (u, values, axis, space, step) => ticks(values, step);
    if (state.axis === "step") x.incrs = [1, 2, 5].flatMap((digit) => Array.from({ length: 15 }, (_, power) => digit * 10 ** power)).sort((a, b) => a - b);
    if (state.axis === "relative") Object.assign(x, { incrs: SECONDS, values: (u, values) => values.map(duration) });
    if (state.axis === "time") x.values = TIMES;
    const y = { ...line, space: 34, size: 52, gap: 6, values: (u, values, axis, space, step) => ticks(values, step) };
    if (state.log)
      Object.assign(y, { splits: () => logSplits(...this.ys), filter: (u, values) => values, values: (u, values) => values.map((value) => number(Number(value.toPrecision(4)), 4)) });
    const options = {
      ...this.size(),
      legend: { show: false },
      padding: [8, 12, 0, 0],
      scales: { x: { time: state.axis === "time", range: () => this.xs }, y: { distr: state.log ? 3 : 1, range: () => this.ys } },
      axes: [x, y],
      series: [{}, { paths: () => null, points: { show: false } }], // the lines are drawn by `paint`, from the pyramid
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, setScale: false },
        bind: { mousedown: (u, target, handler) => (event) => (event.shiftKey ? this.pan(event) : handler(event)), dblclick: () => () => look(null) },
      },
      hooks: { draw: [() => this.paint()], setSelect: [() => this.zoom()], setCursor: [() => this.point()] },
    };
    this.plot.replaceChildren();
    this.u = new uPlot(options, [[...this.xs], [...this.ys]], this.plot);
    this.u.over.addEventListener("mouseenter", () => (hovered = this));
    this.u.over.addEventListener("mouseleave", () => leave());
    this.u.over.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.dots = new Map();
    this.u.root.setAttribute("aria-hidden", "true");
  }

  size() {
    return { width: Math.max(200, this.plot.clientWidth), height: this.plot.clientHeight };
  }

  resize() {
    if (!this.u) return;
    this.range();
    this.u.setSize(this.size());
    this.u.setData([[...this.xs], [...this.ys]]);
  }

  paint() {
    const { ctx, bbox } = this.u;
    const ratio = devicePixelRatio;
    const scaleX = bbox.width / (this.xs[1] - this.xs[0] || 1);
    const left = (value) => bbox.left + (value - this.xs[0]) * scaleX;
    const height = state.log ? Math.log10 : (value) => value;
    const [bottom, upper] = this.ys.map(height);
    const scaleY = bbox.height / (upper - bottom);
    const top = (value) => bbox.top + (upper - height(value)) * scaleY;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineJoin = "round";
    this.marks(left, bbox, ratio);
    for (const faint of [true, false])
      for (const { curve, x, main, indices, rawIndices } of this.lines) {
        const aside = state.raised && state.raised !== curve.run;
        ctx.strokeStyle = ctx.fillStyle = curve.run.colour;
        ctx.globalAlpha = (faint ? 0.28 : 1) * (aside ? 0.25 : 1);
        ctx.lineWidth = (faint ? 1 : state.raised === curve.run ? 2.4 : 1.5) * ratio;
        ctx.setLineDash(faint ? [] : curve.run.dash.map((length) => length * ratio));
        this.trace(ctx, x, faint ? curve.y : main.y, faint ? rawIndices : indices, left, top, ratio);
        if (!faint && curve.nonfinite) this.crosses(ctx, curve, x, left, bbox, ratio);
      }
    this.alerts(ctx, left, bbox, ratio);
    ctx.restore();
  }

  trace(ctx, x, y, indices, left, top, ratio) {
    const drawn = indices.filter((index) => index >= 0);
    const few = left(x[drawn.at(-1)]) - left(x[drawn[0]]) > 10 * ratio * drawn.length; // room to see each point
    let pen = 0; // how many points the stroke has so far
    let [lastX, lastY] = [0, 0];
    const dot = () => {
      ctx.moveTo(lastX, lastY);
      ctx.arc(lastX, lastY, 2.2 * ratio, 0, 7);
    };
    const dots = [];
    ctx.beginPath();
    for (const index of indices) {
      if (index < 0 || (state.log && y[index] <= 0)) {
        if (pen === 1) dots.push([lastX, lastY]);
        if (index < 0) pen = 0;
        continue;
      }
      if (!Number.isFinite(y[index])) continue;
      [lastX, lastY] = [left(x[index]), top(y[index])];
      if (pen++) ctx.lineTo(lastX, lastY);
      else ctx.moveTo(lastX, lastY);
      if (few) dots.push([lastX, lastY]);
    }
    if (pen === 1) dots.push([lastX, lastY]);
    ctx.stroke();
    ctx.beginPath();
    for ([lastX, lastY] of dots) dot();
    ctx.fill();
  }

  // Where a value was NaN or infinite: a tick at the lower edge, one a pixel at most.
  crosses(ctx, curve, x, left, bbox, ratio) {
    ctx.beginPath();
    let last = -Infinity;
    for (const index of curve.broken) {
      const place = Math.round(left(x[index]));
      if (place <= last || place < bbox.left || place > bbox.left + bbox.width) continue;
      last = place + ratio;
      ctx.moveTo(place, bbox.top + bbox.height);
      ctx.lineTo(place, bbox.top + bbox.height - 4 * ratio);
    }
    ctx.setLineDash([]);
    ctx.lineWidth = 1.5 * ratio;
    ctx.stroke();
  }

  // What somebody should look at in this metric: a triangle at the upper edge.
  alerts(ctx, left, bbox, ratio) {
    ctx.fillStyle = css("--bad");
    ctx.globalAlpha = 1;
    ctx.beginPath();
    for (const { curve } of this.lines)
      for (const alert of curve.run.alerts) {
        if (alert.metric !== curve.name || alert.row == null) continue;
        const place = left(curve.run.x[state.axis][alert.row]);
        ctx.moveTo(place - 5 * ratio, bbox.top);
        ctx.lineTo(place + 5 * ratio, bbox.top);
        ctx.lineTo(place, bbox.top + 7 * ratio);
      }
    ctx.fill();
  }

  // Where attempts begin; with one run in view as a line over the whole height with the attempt's number.
  marks(left, bbox, ratio) {
    const { ctx } = this.u;
    const alone = this.lines.length === 1;
    for (const { curve } of this.lines) {
      const x = curve.run.x[state.axis];
      let free = -Infinity;
      ctx.strokeStyle = ctx.fillStyle = alone ? css("--muted") : curve.run.colour;
      ctx.lineWidth = ratio;
      ctx.setLineDash(alone ? [3 * ratio, 3 * ratio] : []);
      ctx.font = `${10 * ratio}px system-ui, sans-serif`;
      ctx.textBaseline = "top";
      ctx.textAlign = "left";
      for (const attempt of curve.run.attempts.slice(1)) {
        if (attempt.row == null) continue;
        const place = Math.round(left(x[attempt.row]));
        if (place < bbox.left || place > bbox.left + bbox.width || place - free < 2 * ratio) continue;
        const rewind = curve.run.rewinds.some((one) => one.row === attempt.row);
        ctx.globalAlpha = alone ? 0.75 : 0.9;
        ctx.beginPath();
        ctx.moveTo(place, bbox.top);
        ctx.lineTo(place, bbox.top + (alone ? bbox.height : 6 * ratio));
        ctx.stroke();
        if (alone && place - free > 34 * ratio) {
          ctx.fillText(rewind ? `${attempt.number} ↶` : `${attempt.number}`, place + 3 * ratio, bbox.top + ratio);
          free = place;
        }
        if (!alone) free = place;
      }
    }
  }

  describe() {
    const broken = this.visible.reduce((sum, curve) => sum + curve.nonfinite, 0);
    this.count.textContent = broken ? `${whole(broken)} not finite` : "";
    const said = this.visible.map((curve) => `${curve.run.label}: last ${number(curve.last)}, least ${number(curve.min)}, greatest ${number(curve.max)}`);
    const [first, last] = bounds(this.visible);
    const [low, high] = this.xs.map((value) => of(state.axis)(Math.max(first, Math.min(last, value))));
    this.plot.setAttribute("aria-label", `${this.name}, ${low} to ${high}. ${said.join(". ")}. Arrow keys read values.`);
  }

  // --- Zoom and pan ---

  zoom() {
    const { left, width } = this.u.select;
    if (width < 4) return;
    const view = [this.u.posToVal(left, "x"), this.u.posToVal(left + width, "x")];
    this.u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    look(view);
  }

  pan(event) {
    const from = event.clientX;
    const [low, high] = this.xs;
    const scale = (high - low) / this.u.over.clientWidth;
    this.u.over.classList.add("panning");
    const move = (moved) => look([low - (moved.clientX - from) * scale, high - (moved.clientX - from) * scale]);
    const end = () => {
      this.u.over.classList.remove("panning");
      document.removeEventListener("mousemove", move);
    };
    document.addEventListener("mousemove", move);
    document.addEventListener("mouseup", end, { once: true });
  }

  // With Ctrl (a pinch on a touchpad is the same) it zooms; alone it scrolls the page, sideways the charts.
  wheel(event) {
    const [low, high] = this.xs;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.scale(Math.exp(Math.max(-50, Math.min(50, event.deltaY)) / 150), this.u.posToVal(event.offsetX, "x"));
    } else if (state.view && Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const by = ((high - low) * event.deltaX) / this.u.over.clientWidth;
      look([low + by, high + by]);
    }
  }

  scale(factor, around) {
    const [low, high] = this.xs;
    look([around - (around - low) * factor, around + (high - around) * factor]);
  }

  key(event) {
    if (!this.u || event.altKey || event.ctrlKey || event.metaKey) return;
    const [low, high] = this.xs;
    const here = cursor ?? high;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.shiftKey) look([low + (by * (high - low)) / 10, high + (by * (high - low)) / 10]);
    else if (by) this.read(Math.min(high, Math.max(low, here + (by * (high - low)) / 100)));
    else if (event.key === "+" || event.key === "=") this.scale(0.5, here);
    else if (event.key === "-") this.scale(2, here);
    else if (event.key === "0" || event.key === "Escape") look(null);
    else return;
    event.preventDefault();
  }

  read(value) {
    hovered = this;
    this.u.setCursor({ left: this.u.valToPos(value, "x"), top: 0 });
    document.getElementById("live").textContent = this.tip.hidden ? "" : [...this.tip.querySelectorAll("p, tr")].map((row) => row.textContent).join(", ");
  }

  // --- Hover ---

  point() {
    if (hovered !== this) return;
    const { left, top } = this.u.cursor;
    if (left == null || left < 0) return;
    const value = this.u.posToVal(left, "x");
    cursor = value;
    for (const chart of charts) if (chart.u && chart.seen && !chart.figure.hidden) chart.show(value, chart === this ? [left, top] : null);
  }

  // Mark the values of all runs at x; where the pointer is, also say them.
  show(value, pointer) {
    const reach = ((this.xs[1] - this.xs[0]) * 8) / this.u.over.clientWidth;
    const found = [];
    for (const { curve, x, main } of this.lines) {
      if (!x.length || value < x[0] - reach || value > x[x.length - 1] + reach) continue;
      const index = nearest(x, value);
      found.push({ curve, index, x: x[index], y: main.y[index], raw: curve.y[index] });
    }
    if (!pointer) this.u.setCursor({ left: this.u.valToPos(value, "x"), top: 0 }, false);
    for (const [run, dot] of this.dots) if (!found.some((one) => one.curve.run === run)) dot.remove(), this.dots.delete(run);
    for (const { curve, x, y } of found) {
      if (!this.dots.has(curve.run)) this.dots.set(curve.run, this.u.over.appendChild(el("div", { class: "dot" })));
      const dot = this.dots.get(curve.run);
      dot.hidden = !Number.isFinite(y) || (state.log && y <= 0);
      dot.style.background = curve.run.colour;
      if (!dot.hidden) dot.style.transform = `translate(${this.u.valToPos(x, "x")}px, ${this.u.valToPos(y, "y")}px)`;
    }
    if (pointer) this.say(found, value, pointer);
  }

  say(found, value, [left, top]) {
    this.tip.hidden = !found.length;
    if (!found.length) return;
    const far = (one) => (Number.isFinite(one.y) ? Math.abs(this.u.valToPos(one.y, "y") - top) : Infinity);
    const near = found.reduce((best, one) => (far(one) < far(best) ? one : best));
    found.sort((a, b) => (b.y > a.y ? 1 : b.y < a.y ? -1 : a.curve.run.index - b.curve.run.index));
    const place = found.indexOf(near);
    const first = Math.max(0, Math.min(place - 6, found.length - 12));
    const listed = found.slice(first, first + 12);
    const rows = listed.map((one) => el("tr", { class: one === near && found.length > 1 ? "near" : null },
      el("td", {}, swatch(one.curve.run)),
      found.length > 1 || runs.length > 1 ? el("td", {}, one.curve.run.label) : null,
      el("td", {}, number(one.y)),
      state.weight ? el("td", { class: "muted" }, number(one.raw)) : null,
      one.x !== near.x ? el("td", { class: "muted" }, of(state.axis)(one.x)) : null));
    const head = of(state.axis)(near.x);
    this.tip.replaceChildren(el("p", { class: "muted" }, head), el("table", {}, rows));
    if (found.length > listed.length) this.tip.append(el("p", { class: "muted" }, `and ${found.length - listed.length} more`));
    const area = this.u.over.getBoundingClientRect();
    const home = this.figure.getBoundingClientRect();
    const beside = area.left - home.left + left;
    const right = beside + 16 + this.tip.offsetWidth > home.width;
    this.tip.style.left = `${right ? Math.max(4 - home.left, beside - 14 - this.tip.offsetWidth) : beside + 14}px`;
    this.tip.style.top = `${Math.max(4, area.top - home.top + Math.min(top, area.height - this.tip.offsetHeight))}px`;
  }

  clear() {
    this.tip.hidden = true;
    for (const dot of this.dots?.values() ?? []) dot.remove();
    this.dots?.clear();
    this.u?.setCursor({ left: -10, top: -10 }, false);
  }
}

let hovered = null;
let cursor = null;

function leave() {
  hovered = null;
  cursor = null;
  for (const chart of charts) chart.clear();
}

// Between two attempts nothing ran: on the clock their lines are not joined.
function apart(indices, curve) {
  const rows = curve.run.attempts.slice(1).map((attempt) => attempt.row).filter((row) => row != null);
  const starts = curve.rows ? rows.map((row) => at(curve.rows, row)) : rows;
  let next = 0;
  return indices.flatMap((index) => {
    if (index < 0 || next >= starts.length || index < starts[next]) return [index];
    while (next < starts.length && index >= starts[next]) next++;
    return [-1, index];
  });
}

function bounds(curves) {
  let [low, high] = [Infinity, -Infinity];
  for (const { run } of curves) {
    const x = run.x[state.axis];
    if (!x.length) continue;
    low = Math.min(low, x[0]);
    high = Math.max(high, x[x.length - 1]);
  }
  return low > high ? [0, 1] : [low, high];
}

function extent(curves) {
  const [low, high] = bounds(curves);
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

// Show the stretch *view* of x in all charts, all of it if null.
function look(view) {
  if (view && !(view[1] - view[0] > 1e-9 * Math.abs(view[1]))) return;
  state.view = view;
  reset.disabled = !view;
  refresh();
}

let asked = false;

function refresh() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const start = performance.now();
    Promise.all(charts.map((chart) => chart.refresh())).then((drawn) => drawn.includes(true) && performance.measure("draw", { start }));
  });
}

function swatch(run) {
  const line = { x1: 1, x2: 21, y1: 6, y2: 6, stroke: run.colour, "stroke-width": 3, "stroke-linecap": run.dash.length ? "butt" : "round" };
  if (run.dash.length) line["stroke-dasharray"] = run.dash.join(" ");
  const image = svg(22, 12, ["line", line]);
  image.setAttribute("class", "swatch");
  return image;
}
