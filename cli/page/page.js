"use strict";
// What comes from runs gets into the page as text nodes and nothing else.
(() => {
const report = JSON.parse(document.getElementById("report").textContent);

// --- Elements ---

function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") || (typeof value !== "boolean" && value != null)) element.setAttribute(name, value);
    else if (value) element.setAttribute(name, "");
  }
  element.append(...children.flat(2).filter((child) => child != null && child !== false));
  return element;
}

function svg(width, height, ...shapes) {
  const make = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const image = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  image.append(...shapes.map(([tag, attributes]) => make(tag, attributes)));
  return image;
}

// --- Numbers for people ---

const EXACT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
const whole = (value) => EXACT.format(value);

function number(value, digits = 5) {
  if (value == null) return "";
  if (typeof value === "string") return value; // NaN and infinities, as JSON has them
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return whole(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e6 ? value.toExponential(digits - 2) : value.toPrecision(digits);
  const [mantissa, exponent] = text.split("e");
  const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  return (exponent === undefined ? short : `${short}e${exponent.replace("+", "")}`).replaceAll("-", "−");
}

function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const [d, h, m, s] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60, total % 60];
  if (d) return h ? `${d}d ${h}h` : `${d}d`;
  if (h) return m ? `${h}h ${m}m` : `${h}h`;
  if (m) return s ? `${m}m ${s}s` : `${m}m`;
  return `${s}s`;
}

function clock(seconds) {
  const at = new Date(seconds * 1000);
  const two = (part) => String(part).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

const plural = (count, thing) => `${whole(count)} ${thing}${count === 1 ? "" : "s"}`;
const of = (kind) => (value) => (kind === "step" ? `step ${whole(Math.round(value))}` : kind === "time" ? clock(value) : duration(value));

// --- Data: gzip of planes of bytes, see columns.py ---

const columns = new Map();

function column(place) {
  if (!columns.has(place.column)) columns.set(place.column, decode(place));
  return columns.get(place.column);
}

async function decode({ column, bytes, rising }) {
  const node = document.getElementById(`column-${column}`);
  const packed = unbase64(node.textContent);
  node.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = planes.length / bytes;
  const raw = new Uint8Array(planes.length);
  for (let place = 0; place < bytes; place++)
    for (let index = 0, from = place * count, to = place; index < count; index++, to += bytes) raw[to] = planes[from + index];
  const values = bytes === 4 ? new Float32Array(raw.buffer) : new Float64Array(raw.buffer);
  if (rising) for (let index = 1; index < count; index++) values[index] += values[index - 1];
  return values;
}

function unbase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}

// --- Curves ---

// Blue, vermilion, green... after Okabe and Ito, each with 3:1 on its background; beyond eight runs the dashes change.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#00845f", "#b0479a", "#8a6d00", "#3d9be0", "#7a1f2b", "#6b7280"],
  dark: ["#56a8f0", "#ff8a3d", "#2fc595", "#e68fd0", "#e3c341", "#a5d8ff", "#e8707c", "#a8b0ba"],
};
const DASHES = [[], [6, 3], [2, 2], [9, 3, 2, 3]];

class Run {
  constructor(document, index) {
    Object.assign(this, document);
    this.index = index;
    this.shown = true;
    this.label = document.name ?? document.id;
    this.dash = DASHES[Math.floor(index / COLOURS.light.length) % DASHES.length];
    this.curves = new Map(document.metrics.map((metric) => [metric.name, new Curve(this, metric)]));
  }

  get colour() {
    return COLOURS[theme()][this.index % COLOURS.light.length];
  }

  // The rows' steps, times (unix seconds) and seconds that the run had run, each never falling.
  load() {
    this.loading ??= Promise.all([column(this.steps), column(this.times)]).then(([step, ms]) => {
      const time = ms.map((at) => at / 1000);
      const relative = new Float64Array(time.length);
      const begins = this.attempts.filter((attempt) => attempt.row != null);
      begins.forEach((attempt, place) => {
        const end = begins[place + 1]?.row ?? time.length;
        for (let row = attempt.row; row < end; row++) relative[row] = Math.max(0, time[row] + attempt.shift_s);
      });
      for (const axis of [time, relative]) for (let row = 1; row < axis.length; row++) if (axis[row] < axis[row - 1]) axis[row] = axis[row - 1];
      this.x = { step, time, relative };
    });
    return this.loading;
  }
}

class Curve {
  constructor(run, metric) {
    Object.assign(this, metric);
    this.run = run;
    this.gathered = {};
    this.smoothed = {};
  }

  load() {
    this.loading ??= Promise.all([this.run.load(), column(this.values), this.at ? column(this.at) : null]).then(([, y, rows]) => {
      this.y = y;
      this.rows = rows;
      this.pyramid = new Pyramid(y);
      this.broken = [];
      if (this.nonfinite) for (let index = 0; index < y.length; index++) if (!Number.isFinite(y[index])) this.broken.push(index);
    });
    return this.loading;
  }

  x(axis) {
    const all = this.run.x[axis];
    if (!this.rows) return all;
    return (this.gathered[axis] ??= Float64Array.from(this.rows, (row) => all[row]));
  }

  smooth(weight) {
    if (this.smoothed.weight !== weight) {
      const y = ema(this.y, weight);
      this.smoothed = { weight, y, pyramid: new Pyramid(y) };
    }
    return this.smoothed;
  }
}

// Debiased as in Adam (Kingma and Ba 2015, section 3); what is not finite stays and does not count.
function ema(values, weight) {
  const out = new Float32Array(values.length);
  let mean = 0;
  let bias = 1;
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    if (!Number.isFinite(value)) {
      out[index] = value;
      continue;
    }
    mean = weight * mean + (1 - weight) * value;
    bias *= weight;
    out[index] = mean / (1 - bias);
  }
  return out;
}

// For blocks of 8, 16, 32... values where the least and the greatest finite one are, -1 if there is none.
class Pyramid {
  constructor(y) {
    this.y = y;
    this.levels = [];
    if (y.length < 64) return;
    let [low, high] = this.pairs(Math.ceil(y.length / 8));
    for (let index = 0; index < y.length; index++) {
      if (!Number.isFinite(y[index])) continue;
      const block = index >> 3;
      if (low[block] < 0 || y[index] < y[low[block]]) low[block] = index;
      if (high[block] < 0 || y[index] > y[high[block]]) high[block] = index;
    }
    while (low.length > 8) {
      const [lower, higher] = this.pairs(Math.ceil(low.length / 2));
      for (let block = 0; block < low.length; block++) {
        if (low[block] < 0) continue;
        const above = block >> 1;
        if (lower[above] < 0 || y[low[block]] < y[lower[above]]) lower[above] = low[block];
        if (higher[above] < 0 || y[high[block]] > y[higher[above]]) higher[above] = high[block];
      }
      [low, high] = [lower, higher];
    }
  }

  pairs(count) {
    const level = [new Int32Array(count).fill(-1), new Int32Array(count).fill(-1)];
    this.levels.push(level);
    return level;
  }

  // The indices to draw of first..last, some four a pixel at most, -1 for a break.
  indices(first, last, pixels) {
    const count = last - first + 1;
    let depth = -1;
    while (depth + 1 < this.levels.length && (8 << (depth + 1)) * pixels <= count) depth++;
    const out = [];
    if (depth < 0) {
      for (let index = first; index <= last; index++) out.push(Number.isFinite(this.y[index]) ? index : -1);
      return out;
    }
    const [low, high] = this.levels[depth];
    out.push(first);
    for (let block = first >> (3 + depth); block <= last >> (3 + depth); block++) {
      const [one, two] = low[block] <= high[block] ? [low[block], high[block]] : [high[block], low[block]];
      if (one < 0) out.push(-1);
      if (one >= first && one <= last) out.push(one);
      if (two > one && two >= first && two <= last) out.push(two);
    }
    out.push(last);
    return out;
  }
}

// The first index whose x is not below the value.
function at(x, value) {
  let [low, high] = [0, x.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(x, value) {
  const index = at(x, value);
  if (index === 0) return 0;
  if (index === x.length) return index - 1;
  return value - x[index - 1] < x[index] - value ? index - 1 : index;
}

// --- State ---

const runs = report.runs.map((document, index) => new Run(document, index));
const names = [...new Set(runs.flatMap((run) => [...run.curves.keys()]))];
const state = { axis: "step", weight: 0, log: false, view: null, filter: "", raised: null, theme: kept() };
const dark = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try {
    return localStorage.getItem("offline_tracker.theme");
  } catch {
    return null; // storage is switched off
  }
}

function theme() {
  return state.theme ?? (dark.matches ? "dark" : "light");
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// --- Charts ---

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
  if (biggest >= 1e9 || biggest < 1e-3) return say((value) => value.toExponential(Math.max(0, power + digits(step))).replace("e+", "e"));
  for (const [size, from, unit] of [[1e6, 1e6, "M"], [1e3, 1e4, "k"]])
    if (biggest >= from && digits(step / size) <= 2) return say((value) => `${(value / size).toFixed(digits(step / size))}${unit}`);
  return say((value) => value.toLocaleString("en-US", { minimumFractionDigits: digits(step), maximumFractionDigits: digits(step) }));
}

// How many decimals a step has, such as 2 for 0.25.
function digits(step) {
  for (let count = 0; count < 15; count++) if (Math.abs(step * 10 ** count - Math.round(step * 10 ** count)) < 1e-6 * step * 10 ** count) return count;
  return 15;
}

// On a log axis the steps between labels differ, so each has the digits that it needs.
const logTicks = (values) => values.map((value) => (value == null ? "" : number(Number(value.toPrecision(3)), 3)));

class Chart {
  constructor(name) {
    this.name = name;
    this.seen = false; // in or near the window
    this.stale = true;
    this.curves = runs.map((run) => run.curves.get(name)).filter(Boolean);
    this.count = el("span", { class: "bad" });
    const broken = this.curves.reduce((sum, curve) => sum + curve.nonfinite, 0);
    if (broken) this.count.append(`${whole(broken)} not finite`);
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

  // Draw anew if anybody can see it, else when somebody can.
  async refresh() {
    this.stale = true;
    if (!this.seen || this.figure.hidden) return;
    if (!this.loaded) await this.load();
    if (this.stale) this.draw();
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
    const y = { ...line, space: 34, size: 52, gap: 6, values: state.log ? (u, values) => logTicks(values) : (u, values, axis, space, step) => ticks(values, step) };
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
        bind: { mousedown: (u, target, handler) => (event) => (event.shiftKey || event.button === 1 ? this.pan(event) : handler(event)), dblclick: () => () => look(null) },
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
    ctx.restore();
  }

  trace(ctx, x, y, indices, left, top, ratio) {
    const few = indices.length <= 40;
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
    const said = this.visible.map((curve) => `${curve.run.label}: last ${number(curve.last)}, least ${number(curve.min)}, greatest ${number(curve.max)}`);
    const [low, high] = this.xs.map(of(state.axis));
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
    event.preventDefault();
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
      listed.some((other) => other.x !== near.x) ? el("td", { class: "muted" }, of(state.axis)(one.x)) : null));
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

function extent(curves) {
  let [low, high] = [Infinity, -Infinity];
  for (const { run } of curves) {
    const x = run.x[state.axis];
    if (!x.length) continue;
    low = Math.min(low, x[0]);
    high = Math.max(high, x[x.length - 1]);
  }
  if (low > high) return [0, 1];
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
    const cost = performance.now();
    Promise.all(charts.map((chart) => chart.refresh())).then(() => {
      if (charts.some((chart) => chart.u) && !performance.getEntriesByName("charts").length) performance.mark("charts");
      document.documentElement.dataset.drawn = Number(document.documentElement.dataset.drawn ?? 0) + 1;
      document.documentElement.dataset.cost = (performance.now() - cost).toFixed(1);
    });
  });
}

function swatch(run) {
  const line = { x1: 1, x2: 21, y1: 6, y2: 6, stroke: run.colour, "stroke-width": 3, "stroke-linecap": run.dash.length ? "butt" : "round" };
  if (run.dash.length) line["stroke-dasharray"] = run.dash.join(" ");
  const image = svg(22, 12, ["line", line]);
  image.setAttribute("class", "swatch");
  return image;
}

// --- Controls ---

const charts = names.map((name) => new Chart(name));
const reset = el("button", { type: "button", disabled: true, title: "Show all of it (double-click in a chart)", onclick: () => look(null) }, "Reset zoom");

function controls() {
  const form = document.getElementById("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  const axes = Object.keys(AXES).map((axis) => el("button", { type: "button", role: "radio", "aria-checked": axis === state.axis, tabindex: axis === state.axis ? 0 : -1, onclick: () => choose(axis) }, { step: "Step", relative: "Relative", time: "Time" }[axis]));
  const choose = (axis) => {
    state.axis = axis;
    axes.forEach((button, place) => {
      const on = Object.keys(AXES)[place] === axis;
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    });
    leave();
    look(null);
  };
  const turn = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const place = (axes.indexOf(document.activeElement) + by + axes.length) % axes.length;
    axes[place].focus();
    axes[place].click();
  };
  const weight = el("output", {}, "off");
  // Evenly spaced in the number of rows that are averaged over, which is what the eye sees: 1 to 1000.
  const slider = el("input", {
    type: "range", min: 0, max: 60, value: 0, "aria-label": "Smoothing", "aria-valuetext": "off",
    oninput: () => {
      state.weight = Number(slider.value) ? 1 - 10 ** (-slider.value / 20) : 0;
      weight.value = state.weight ? state.weight.toFixed(state.weight < 0.99 ? 2 : 3) : "off";
      slider.setAttribute("aria-valuetext", weight.value);
      refresh();
    },
  });
  const log = el("button", { type: "button", "aria-pressed": "false", onclick: () => log.setAttribute("aria-pressed", (state.log = !state.log)) ?? refresh() }, "Log scale");
  const filter = el("input", { type: "search", placeholder: "Filter charts", "aria-label": "Filter charts", oninput: () => ((state.filter = filter.value.toLowerCase()), sift()) });
  const look_ = el("button", { type: "button", onclick: () => ((state.theme = theme() === "dark" ? "light" : "dark"), keep(), paintAll()) }, "Dark");
  look_.id = "theme";
  form.append(
    el("span", { class: "group", role: "radiogroup", "aria-label": "Horizontal axis", onkeydown: turn }, axes),
    el("label", {}, "Smoothing", slider, weight), log, reset, names.length > 4 ? filter : "", look_);
}

function keep() {
  try {
    localStorage.setItem("offline_tracker.theme", state.theme);
  } catch {
    // storage is switched off: it holds for this visit
  }
}

function sift() {
  for (const chart of charts) chart.figure.hidden = !chart.name.toLowerCase().includes(state.filter);
  document.getElementById("none").hidden = charts.some((chart) => !chart.figure.hidden);
  refresh();
}

function paintAll() {
  document.documentElement.dataset.theme = theme();
  document.getElementById("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  for (const image of document.querySelectorAll("svg.swatch")) {
    const run = runs[image.closest("[data-run]")?.dataset.run];
    if (run) image.firstChild.setAttribute("stroke", run.colour);
  }
  for (const chart of charts) chart.stale = true;
  refresh();
}

function legend() {
  const aside = document.getElementById("runs");
  if (runs.length === 1) {
    aside.append(el("div", { class: "heading" }, el("h2", {}, "Run")), facts(runs[0]));
    return;
  }
  const buttons = runs.map((run) => el("button", {
      type: "button", "aria-pressed": "true", "data-run": run.index, title: `${run.label} (${run.id}): click hides or shows it, double-click shows it alone`,
      onclick: () => toggle([run], !run.shown), ondblclick: () => alone(run),
      onmouseenter: () => raise(run), onmouseleave: () => raise(null), onfocus: () => raise(run), onblur: () => raise(null),
    },
    swatch(run), el("span", { class: "name" }, run.label), el("span", { class: "muted" }, brief(run))));
  const toggle = (some, shown) => {
    for (const run of some) {
      run.shown = shown;
      buttons[run.index].setAttribute("aria-pressed", shown);
    }
    leave();
    refresh();
  };
  const alone = (run) => (toggle(runs, false), toggle([run], true));
  const raise = (run) => {
    state.raised = run?.shown ? run : null;
    for (const chart of charts) if (chart.u && chart.seen && !chart.stale) chart.u.redraw(false, false);
  };
  aside.append(
    el("div", { class: "heading" }, el("h2", {}, "Runs"),
      el("button", { type: "button", class: "plain", onclick: () => toggle(runs, true) }, "All"),
      el("button", { type: "button", class: "plain", onclick: () => toggle(runs, false) }, "None")),
    el("ul", { class: "legend" }, buttons.map((button) => el("li", {}, button))));
}

function brief(run) {
  const parts = [run.state];
  if (run.last_step != null) parts.push(`step ${whole(run.last_step)}`);
  const loss = run.metrics[0];
  if (loss) parts.push(`${loss.name} ${number(loss.last, 4)}`);
  return parts.join(" · ");
}

function facts(run) {
  const list = el("dl", { class: "facts" });
  const add = (name, value) => value && list.append(el("dt", {}, name), el("dd", {}, value));
  add("Id", run.id);
  add("Project", run.project);
  add("Group", run.group);
  add("Job type", run.job_type);
  add("State", status(run));
  add("Step", progress(run));
  add("Rows", whole(run.rows));
  add("Time run", duration(run.runtime_s));
  add("Started", clock(run.created_at));
  add("Attempts", whole(run.attempts.length) + (run.rewinds.length ? `, ${plural(run.rewinds.length, "rewind")}` : ""));
  add("Checkpoints", run.checkpoints ? whole(run.checkpoints) : null);
  add("Calls lost", lost(run) ? el("span", { class: "bad" }, whole(lost(run))) : null);
  if (run.tags.length) add("Tags", run.tags.map((tag) => el("span", { class: "tag" }, tag)));
  for (const link of run.links) add("Synced", where(link));
  return list;
}

// --- Tables ---

const many = runs.length > 1;
const text = (value) => el("td", {}, value ?? "");
const figure = (value) => el("td", { class: "number" }, value ?? "");
const right = (name) => el("th", { scope: "col", class: "number" }, name);
const title = (run) => [many ? swatch(run) : null, el("span", { class: "name" }, run.label)];
const runHeads = (kind) => runs.map((run) => el("th", { scope: "col", class: kind, "data-run": run.index }, title(run)));
const status = (run) => el("span", { class: { finished: "good", running: "good" }[run.state] ?? "bad" }, run.state);
const progress = (run) => (run.last_step == null ? "" : whole(run.last_step) + (run.total_steps ? ` of ${whole(run.total_steps)}` : ""));
const lost = (run) => run.gaps.reduce((sum, gap) => sum + gap.calls, 0);
const where = (link) => `${link.remote}, ${link.confirmed_step == null ? "nothing yet" : `to step ${whole(link.confirmed_step)}`}`;

function table(name, heads, rows, extra) {
  if (!rows.length) return;
  const head = el("tr", {}, heads.map((one) => (typeof one === "string" ? el("th", { scope: "col" }, one) : one)));
  document.getElementById("tables").append(el("section", { class: "table", "aria-label": name },
    el("div", { class: "heading" }, el("h2", {}, name), extra),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows)))));
}

// A table of what runs have several of, the run in front where there is more than one.
function listed(name, heads, things, cells) {
  const row = (run, thing) => el("tr", {}, many ? el("th", { scope: "row", "data-run": run.index }, title(run)) : null, cells(thing, run));
  table(name, many ? ["run", ...heads] : heads, runs.flatMap((run) => things(run).map((thing) => row(run, thing))));
}

function tables() {
  const row = (name, cells) => el("tr", {}, el("th", { scope: "row" }, name), cells);
  if (many) {
    listed("Runs", ["id", "state", right("step"), right("time run"), "started", right("attempts"), right("rewinds"), right("calls lost"), "tags", "synced"], (run) => [run], (run) => [
      text(run.id), text(status(run)), figure(progress(run)), figure(duration(run.runtime_s)), text(clock(run.created_at)), figure(run.attempts.length),
      figure(run.rewinds.length || ""), figure(lost(run) ? el("span", { class: "bad" }, whole(lost(run))) : ""), text(run.tags.join(", ")), text(run.links.map(where).join("; "))]);
    const values = (say) => names.map((name) => row(name, runs.map((run) => figure(run.curves.has(name) ? say(run.curves.get(name)) : "–"))));
    table("Last values", ["metric", ...runHeads("number")], values((curve) => number(curve.last)));
    table("Least and greatest values", ["metric", ...runHeads("number")], values((curve) => (curve.min == null ? "–" : `${number(curve.min, 4)} to ${number(curve.max, 4)}`)));
  } else {
    table("Metrics", ["metric", right("last"), right("at step"), right("least"), right("greatest"), right("points"), right("not finite")], [...runs[0].curves.values()].map((curve) =>
      row(curve.name, [number(curve.last), whole(curve.last_step), number(curve.min), number(curve.max), whole(curve.count), curve.nonfinite ? el("span", { class: "bad" }, whole(curve.nonfinite)) : ""].map(figure))));
  }
  compared("Config", (run) => run.config);
  compared("Summary, set by hand", (run) => run.summary);
  compared("Last texts", (run) => run.texts);
  listed("Alerts", ["level", right("step"), "at", "title", "text"], (run) => run.alerts, (alert) => [
    text(alert.level), figure(alert.step == null ? "" : whole(alert.step)), text(clock(alert.time)), text(alert.title), text(alert.text)]);
  listed("Attempts", [right("attempt"), "host", "started", "ended", "why"], (run) => run.attempts, (attempt) => [
    figure(attempt.number), text(attempt.host), text(clock(attempt.started_at)), text(ending(attempt)), text(attempt.why)]);
  listed("Rewinds", [right("back to step"), right("from step"), "at", "why"], (run) => run.rewinds, (rewind) => [
    figure(whole(rewind.step)), figure(rewind.from_step == null ? "" : whole(rewind.from_step)), text(clock(rewind.time)), text(rewind.why)]);
  listed("Gaps", [right("calls lost"), "at", "why"], (run) => run.gaps, (gap) => [figure(whole(gap.calls)), text(clock(gap.time)), text(gap.why)]);
  listed("Notes", ["notes"], (run) => (run.notes.length ? [run.notes.join("\n")] : []), (notes) => [el("td", {}, el("pre", {}, notes))]);
}

function ending(attempt) {
  if (attempt.ended_at == null) return attempt.alive ? "running" : el("span", { class: "bad" }, "died");
  return attempt.exit_code ? el("span", {}, clock(attempt.ended_at), el("span", { class: "bad" }, `, exit ${attempt.exit_code}`)) : clock(attempt.ended_at);
}

// A table of names and one column a run, in which the names that differ are marked, and are all there is at first.
function compared(name, pairs) {
  const values = runs.map((run) => new Map(pairs(run)));
  const rows = [...new Set(values.flatMap((one) => [...one.keys()]))].map((key) => {
    const line = values.map((one) => one.get(key));
    const count = (value) => line.filter((other) => other === value).length;
    const usual = line.reduce((best, value) => (count(value) > count(best) ? value : best));
    const differs = count(line[0]) < line.length;
    return el("tr", { class: differs ? "differs" : "same" }, el("th", { scope: "row" }, key, differs ? el("span", { class: "unseen" }, " (differs)") : null),
      line.map((value) => el("td", { class: value === usual ? "usual" : null }, value ?? "–")));
  });
  const same = rows.filter((row) => row.className === "same");
  let extra = null;
  if (same.length && same.length < rows.length) {
    const fold = (hidden) => {
      for (const row of same) row.hidden = hidden;
      extra.textContent = hidden ? `Show ${same.length} that are the same` : "Only what differs";
      extra.setAttribute("aria-expanded", !hidden);
    };
    extra = el("button", { type: "button", class: "plain", onclick: () => fold(!same[0].hidden) });
    fold(true);
  }
  table(name, ["name", ...(many ? runHeads() : ["value"])], rows, extra);
}

// --- Begin ---

document.documentElement.dataset.theme = theme();
document.getElementById("title").textContent = report.title;
const points = runs.reduce((sum, run) => sum + run.metrics.reduce((all, metric) => all + metric.count, 0), 0);
document.getElementById("subtitle").textContent = [many ? plural(runs.length, "run") : null, plural(points, "point"), `written ${clock(report.written_at).slice(0, 16)}`].filter(Boolean).join(" · ");
controls();
legend();
const grid = document.getElementById("charts");
grid.append(...charts.map((chart) => chart.figure), el("p", { class: "empty", id: "none", hidden: charts.length > 0 }, charts.length ? "No chart has such a name." : "Nothing was logged."));
if (charts.length) grid.after(el("p", { class: "hint" }, "Drag to zoom, Shift-drag to pan, double-click to see all again; Ctrl and the wheel zoom, too. With a chart in focus: arrows, + and −, 0."));
tables();
paintAll();
const fit = () => document.documentElement.style.setProperty("--top", `${document.querySelector(".top").offsetHeight}px`);
fit();
dark.addEventListener("change", paintAll);

if (typeof DecompressionStream === "undefined") {
  grid.replaceChildren(el("p", { class: "empty" }, "This browser is too old to unpack the data (it lacks DecompressionStream): Chrome 80, Firefox 113 or Safari 16.4 do it."));
  return;
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.chart.seen = entry.isIntersecting;
  refresh();
}, { rootMargin: "300px" });
for (const chart of charts) watcher.observe(chart.figure);
let width = 0;
new ResizeObserver(() => {
  if (grid.clientWidth === width) return;
  width = grid.clientWidth;
  fit();
  for (const chart of charts) chart.resize();
}).observe(grid);

// Paper has no window to scroll: what was not drawn yet is drawn now, in the colours for white.
const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));
const ahead = (rest) => rest.length && idle(() => rest[0].load().then(() => ahead(rest.slice(1))));
addEventListener("load", () => ahead(charts));
let before = null;
addEventListener("beforeprint", () => {
  before = [state.theme];
  state.theme = "light";
  paintAll();
  for (const chart of charts) if (chart.loaded && !chart.figure.hidden) chart.draw();
});
addEventListener("afterprint", () => {
  [state.theme] = before;
  paintAll();
});
})();
