// Numbers as the page holds them, and as people read them.

// --- Numbers for people ---

const EXACT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
const whole = (value) => EXACT.format(value);

function number(value, digits = 5) {
  if (value == null) return "";
  if (typeof value === "string") return value; // NaN and infinities, as JSON has them
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return whole(value).replace("-", "−");
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e7)
    return value.toLocaleString("en-US", size >= 10 ** digits ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits }).replace("-", "−");
  const [mantissa, exponent] = value.toExponential(digits - 2).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`.replaceAll("-", "−");
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

// Chosen by search: every two differ by 12 in Oklab (times 100), also to eyes that lack red or green cones, and by 8 to those that
// lack blue ones; each has 3:1 on its background. Beyond eight runs the dashes change.
const COLOURS = {
  light: ["#1540b3", "#d27309", "#087675", "#a861c8", "#ba2522", "#36a387", "#760920", "#463167"],
  dark: ["#607cd5", "#f27e0a", "#1bba95", "#a8a5ff", "#c83a0e", "#9bf376", "#994c79", "#f5d4ff"],
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
