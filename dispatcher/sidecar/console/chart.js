// A chart of at most the last fifteen minutes: lines over time, with a crosshair for the pointer and for the arrow keys.

import { at, el, svg, write } from "./words.js";

const HEIGHT = 150;
const PAD = { top: 10, right: 10, bottom: 20, left: 46 };
const STEPS = [15, 30, 60, 120, 180, 300]; // seconds between two marks of the time
const GAP = 3; // so many missing points are a gap, not a line

/** Charts of one group share the moment that is pointed at. */
export class Group {
  constructor() {
    this.charts = [];
    this.chosen = null; // Unix seconds, null: nobody points
  }

  choose(moment) {
    this.chosen = moment;
    for (const chart of this.charts) chart.point();
  }
}

export class Chart {
  /**
   * `lines`: [{ of: point => number|null, name, tone, fill }]; `scale`: from points to { y: value => 0..1, ticks: [{value, text}] };
   * `limit`: { value, text }, a line that should not be crossed; `say`: point => text, of one moment; `empty`: text.
   */
  constructor(place, group, { title, lines, scale, limit, say, empty }) {
    Object.assign(this, { group, lines, scale, limit, say, title, points: [], every: 2, span: 900, old: false });
    group.charts.push(this);
    this.readout = el("span", { class: "readout" });
    this.empty = el("p", { class: "empty muted", hidden: true }, empty);
    this.canvas = svg("svg", { height: HEIGHT, "aria-hidden": "true" });
    this.stage = el("div", {
      class: "stage", tabindex: "0", role: "slider", "aria-label": `${title}: a moment, by arrow keys`,
      "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0",
      pointermove: (event) => this.pointed(event), pointerdown: (event) => this.pointed(event),
      pointerleave: () => group.choose(null), blur: () => group.choose(null), keydown: (event) => this.moved(event),
    }, this.canvas, this.empty);
    const legend = lines.length > 1
      && el("span", { class: "legend" }, lines.map((line) => el("span", { class: `key key-${line.tone.split(" ")[0]}` }, line.name)));
    place.replaceChildren(el("div", { class: "bar" }, el("h3", {}, title), legend), this.readout, this.stage);
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }

  /** `every`: seconds between two points; `span`: seconds from left to right. */
  show(points, every, span) {
    Object.assign(this, { points, every, span });
    this.draw();
  }

  /** `old`: the last point is not of now. */
  age(old) {
    if (this.old === old) return;
    this.old = old;
    this.draw();
  }

  draw() {
    const width = this.stage.clientWidth;
    if (!width) return;
    const { points } = this;
    this.until = points.length ? points.at(-1).at : Date.now() / 1000;
    this.width = width;
    const scale = this.scale(points);
    const x = this.x = (moment) => PAD.left + (1 - (this.until - moment) / this.span) * (width - PAD.left - PAD.right);
    const y = (value) => HEIGHT - PAD.bottom - scale.y(value) * (HEIGHT - PAD.top - PAD.bottom);
    const nodes = [];
    for (const tick of scale.ticks) {
      const level = Math.round(y(tick.value)) + 0.5;
      nodes.push(svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: level, y2: level }));
      nodes.push(svg("text", { class: "axis", x: PAD.left - 6, y: level + 4, "text-anchor": "end" }, tick.text));
    }
    const step = STEPS.find((each) => this.span / each <= 4) ?? 300;
    for (let back = 0; back <= this.span; back += step) {
      const anchor = back === this.span ? "start" : back === 0 ? "end" : "middle";
      const text = back === 0 ? (this.old ? at(this.until) : "now") : back % 60 ? `−${back} s` : `−${back / 60} min`;
      nodes.push(svg("text", { class: "axis", x: x(this.until - back), y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    for (const line of this.lines) nodes.push(...this.trace(line, x, y));
    if (scale.peak) {
      const spot = Math.max(PAD.left + 30, Math.min(width - PAD.right - 30, x(scale.peak.at)));
      nodes.push(svg("text", { class: "peak", x: spot, y: PAD.top + 1, "text-anchor": "middle" }, `↑ ${scale.peak.text}`));
    }
    if (this.limit) {
      const level = y(this.limit.value);
      nodes.push(svg("line", { class: "limit", x1: PAD.left, x2: width - PAD.right, y1: level, y2: level }));
      nodes.push(svg("text", { class: "limit-text", x: width - PAD.right, y: level - 4, "text-anchor": "end" }, this.limit.text));
    }
    this.cross = svg("line", { class: "cross", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.canvas.replaceChildren(...nodes, this.cross);
    this.empty.hidden = points.some((point) => this.lines.some((line) => line.of(point) != null));
    this.point();
  }

  /** The paths of a line; it breaks where nothing is known. */
  trace(line, x, y) {
    const runs = [];
    let run = null;
    let last = null;
    for (const point of this.points) {
      if (point.at < this.until - this.span) continue; // before the left edge: the start of a process that came after it
      const value = line.of(point);
      if (value == null) {
        if (!line.bridge) run = null;
        continue;
      }
      if (run === null || point.at - last > this.every * (line.bridge ?? GAP)) runs.push(run = []);
      run.push([x(point.at).toFixed(1), y(value).toFixed(1)]);
      last = point.at;
    }
    const ground = (HEIGHT - PAD.bottom).toFixed(1);
    return runs.flatMap((run) => {
      const d = `M${run.map((spot) => spot.join(",")).join("L")}`;
      const area = line.fill && run.length > 1
        && svg("path", { class: `area ${line.tone}`, d: `${d}L${run.at(-1)[0]},${ground}L${run[0][0]},${ground}Z` });
      const stroke = run.length > 1
        ? svg("path", { class: `line ${line.tone}`, d })
        : svg("circle", { class: `dot ${line.tone}`, cx: run[0][0], cy: run[0][1], r: line.tone === "bad" ? 3.5 : 2 });
      return [area, stroke].filter(Boolean);
    });
  }

  pointed(event) {
    const box = this.stage.getBoundingClientRect();
    const share = (event.clientX - box.left - PAD.left) / (this.width - PAD.left - PAD.right);
    const wanted = this.until - (1 - share) * this.span;
    const nearest = this.points.reduce(
      (best, point) => (best && Math.abs(best.at - wanted) <= Math.abs(point.at - wanted) ? best : point), null);
    this.group.choose(nearest && nearest.at);
  }

  moved(event) {
    const last = this.points.length - 1;
    if (last < 0) return;
    const here = this.group.chosen === null ? last : this.index();
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, PageUp: here - 15, PageDown: here + 15, Home: 0, End: last }[event.key];
    if (to === undefined) {
      if (event.key === "Escape") this.group.choose(null);
      return;
    }
    event.preventDefault();
    this.group.choose(this.points[Math.max(0, Math.min(last, to))].at);
  }

  index() {
    const found = this.points.findIndex((point) => point.at >= this.group.chosen);
    return found < 0 ? this.points.length - 1 : found;
  }

  /** Show the moment that is pointed at, or the latest. */
  point() {
    const { chosen } = this.group;
    const index = this.points.length ? (chosen === null ? this.points.length - 1 : this.index()) : -1;
    const point = this.points[index];
    const text = point ? `${chosen !== null ? at(point.at) : this.old ? `at ${at(point.at)}` : "now"}  ·  ${this.say(point)}` : "no point yet";
    write(this.readout, text);
    this.stage.setAttribute("aria-valuemax", Math.max(0, this.points.length - 1));
    this.stage.setAttribute("aria-valuenow", Math.max(0, index));
    this.stage.setAttribute("aria-valuetext", text);
    if (this.cross && this.x) {
      this.cross.setAttribute("visibility", chosen === null || !point ? "hidden" : "visible");
      if (point) for (const end of ["x1", "x2"]) this.cross.setAttribute(end, this.x(point.at));
    }
  }
}

const PEAK = 4; // a peak so many times as high as nearly all else is cut off and named, or all else would lie on the ground

/** From nought to a round figure above the largest value, or above nearly all of them. */
export function linear(values, text, least) {
  return (points) => {
    const tops = points.map((point) => Math.max(0, ...values.map((of) => of(point) ?? 0)));
    const usual = tops.filter((top) => top > 0).sort((a, b) => a - b);
    const most = usual.length ? usual.at(-1) : 0;
    const nearly = usual.length ? usual[Math.floor((usual.length - 1) * 0.9)] : 0;
    const cut = usual.length >= 20 && most > PEAK * Math.max(nearly, least);
    const top = Math.max(least, cut ? nearly * 1.5 : most * 1.05); // the line does not lie on the edge
    const step = [1, 2, 2.5, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10(top / 3))).find((n) => n * 3 >= top) ?? top;
    const ceiling = Math.ceil(top / step) * step;
    const ticks = [];
    for (let value = 0; value <= ceiling + step / 2; value += step) ticks.push({ value, text: text(value) });
    const peak = most > ceiling ? { at: points[tops.indexOf(most)].at, text: text(most) } : null;
    return { y: (value) => Math.min(1, value / ceiling), ticks, peak };
  };
}

/** Powers of ten, for what spans many of them. */
export function powers(lowest, highest, text) {
  const span = Math.log10(highest / lowest);
  const ticks = [];
  for (let value = lowest; value <= highest * 1.01; value *= 10) ticks.push({ value, text: text(value) });
  return () => ({
    y: (value) => Math.max(0, Math.min(1, Math.log10(Math.max(value, lowest) / lowest) / span)),
    ticks,
  });
}
