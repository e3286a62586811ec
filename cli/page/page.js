// The page: state, controls, legend, tables. What comes from runs gets into it as text nodes and nothing else.

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
  const colours = el("button", { type: "button", id: "theme", onclick: () => ((state.theme = theme() === "dark" ? "light" : "dark"), keep(), paintAll()) });
  form.append(
    el("span", { class: "group", role: "radiogroup", "aria-label": "Horizontal axis", onkeydown: turn }, axes),
    el("label", {}, "Smoothing", slider, weight), log, reset, names.length > 4 ? filter : "", colours);
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
  const other = theme() === "dark" ? "Light" : "Dark";
  document.getElementById("theme").textContent = other;
  document.getElementById("theme").title = `${other} colours`;
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
      if (!shown && state.raised === run) state.raised = null;
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
const title = (run) => [many ? swatch(run) : null, el("span", { class: "name", title: run.label }, run.label)];
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

// A table of what runs have several of, the run in front where there is more than one; columns without anything are left out.
function listed(name, heads, things, cells) {
  const lines = runs.flatMap((run) => things(run).map((thing) => [run, cells(thing)]));
  const used = heads.map((_, place) => lines.some(([, line]) => line[place].textContent));
  const row = ([run, line]) => el("tr", {}, many && el("th", { scope: "row", "data-run": run.index }, title(run)), line.filter((_, place) => used[place]));
  table(name, [...(many ? ["run"] : []), ...heads.filter((_, place) => used[place])], lines.map(row));
}

function tables() {
  const row = (name, cells) => el("tr", {}, el("th", { scope: "row" }, name), cells);
  if (many) {
    listed("Runs", ["id", "state", right("step"), right("time run"), "started", right("attempts"), right("rewinds"), right("calls lost"), "tags", "synced"], (run) => [run], (run) => [
      text(run.id), text(status(run)), figure(progress(run)), figure(duration(run.runtime_s)), text(clock(run.created_at)), figure(run.attempts.length),
      figure(run.rewinds.length || ""), figure(lost(run) ? el("span", { class: "bad" }, whole(lost(run))) : ""), text(run.tags.join(", ")), text(run.links.map(where).join("; "))]);
    compared("Config", (run) => run.config);
    const values = (say) => names.map((name) => row(name, runs.map((run) => figure(run.curves.has(name) ? say(run.curves.get(name)) : "–"))));
    table("Last values", ["metric", ...runHeads("number")], values((curve) => number(curve.last)));
    table("Least and greatest values", ["metric", ...runHeads("number")], values((curve) => (curve.min == null ? "–" : `${number(curve.min, 4)} to ${number(curve.max, 4)}`)));
  } else {
    table("Metrics", ["metric", right("last"), right("at step"), right("least"), right("greatest"), right("points"), right("not finite")], [...runs[0].curves.values()].map((curve) =>
      row(curve.name, [number(curve.last), whole(curve.last_step), number(curve.min), number(curve.max), whole(curve.count), curve.nonfinite ? el("span", { class: "bad" }, whole(curve.nonfinite)) : ""].map(figure))));
  }
  if (!many) compared("Config", (run) => run.config);
  compared("Summary, set by hand", (run) => run.summary);
  compared("Last texts", (run) => run.texts);
  listed("Alerts", ["level", right("step"), "at", "text"], (run) => run.alerts, (alert) => [
    text(alert.level), figure(alert.step == null ? "" : whole(alert.step)), text(clock(alert.time)), text(alert.text)]);
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
      line.map((value) => el("td", { class: value === usual ? "usual" : null }, value?.length > 60 ? el("div", { class: "long" }, value) : value ?? "–")));
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

function begin() {
  const grid = document.getElementById("charts");
  const points = runs.flatMap((run) => run.metrics).reduce((sum, metric) => sum + metric.count, 0);
  const said = [many && report.title !== plural(runs.length, "run") && plural(runs.length, "run"), plural(points, "point"), `written ${clock(report.written_at).slice(0, 16)}`];
  document.getElementById("title").textContent = report.title;
  document.getElementById("subtitle").textContent = said.filter(Boolean).join(" · ");
  controls();
  legend();
  grid.append(...charts.map((chart) => chart.figure), el("p", { class: "empty", id: "none", hidden: charts.length > 0 }, charts.length ? "No chart has such a name." : "Nothing was logged."));
  if (charts.length) grid.after(el("p", { class: "hint" }, "Drag to zoom, Shift-drag to pan, double-click for all of it; Ctrl and the wheel zoom, too. In a focused chart: ← → read, + − zoom, Shift ← → pan, 0 all of it."));
  tables();
  paintAll();
  dark.addEventListener("change", paintAll);
  if (typeof DecompressionStream === "undefined") {
    grid.replaceChildren(el("p", { class: "empty" }, "This browser can't unpack the data (it lacks DecompressionStream); Chrome 80, Firefox 113 and Safari 16.4 can."));
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
    document.documentElement.style.setProperty("--top", `${document.querySelector(".top").offsetHeight}px`);
    for (const chart of charts) chart.resize();
  }).observe(grid);
  addEventListener("load", () => ahead(charts));
  addEventListener("beforeprint", print);
}

// Paper has no window to scroll: what was not seen yet is unpacked when there is time, and drawn for it, in the colours for white.
function ahead(rest) {
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));
  if (rest.length) idle(() => rest[0].load().then(() => ahead(rest.slice(1))));
}

function print() {
  const before = state.theme;
  const turn = (paper) => {
    state.theme = paper ? "light" : before;
    document.documentElement.classList.toggle("paper", paper);
    paintAll();
    for (const chart of charts) if (chart.loaded && !chart.figure.hidden) chart.draw(), chart.resize();
  };
  turn(true);
  addEventListener("afterprint", () => turn(false), { once: true });
}

begin();
