// The four charts, and the points they are drawn of: asked for once, then only what is new.

import { ask } from "./ask.js";
import { Chart, Group, linear, powers } from "./chart.js";
import { BACKLOG_BOUND, byId, compact, count, lasting, latency, rate, write } from "./words.js";

const LEAST_S = 60; // the shortest time that is drawn

export class Charts {
  constructor(sla) {
    const group = new Group();
    this.points = [];
    this.next = 0;
    this.all = [
      new Chart(byId("chart-events"), group, {
        title: "Published by this dispatcher, a second",
        lines: [
          { name: "published", of: (p) => p.events, tone: "one", fill: true },
          { name: "failed", of: (p) => p.failed || null, tone: "bad" },
        ],
        scale: linear([(p) => p.events, (p) => p.failed], compact, 3),
        say: (p) => `${rate(p.events)} published, ${rate(p.failed)} failed a second`,
        empty: "No event yet.",
      }),
      new Chart(byId("chart-latency"), group, {
        title: "Latency, from commit to Redis, each 2 s",
        lines: [
          { name: "p99", of: (p) => p.p99, tone: "three thin", bridge: 10 },
          { name: "p95", of: (p) => p.p95, tone: "one", bridge: 10 },
          { name: "p50", of: (p) => p.p50, tone: "two thin", bridge: 10 },
        ],
        scale: powers(0.001, 100, (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${Math.round(value)} s`)),
        limit: { value: sla, text: `promised for p95: ${sla} s` },
        say: (p) => (p.p95 == null ? "no event" : `p50 ${latency(p.p50)}, p95 ${latency(p.p95)}, p99 ${latency(p.p99)}`),
        empty: "No event in this time.",
      }),
      new Chart(byId("chart-backlog"), group, {
        title: "Backlog",
        lines: [{ name: "waiting", of: (p) => p.backlog, tone: "one", fill: true }],
        scale: linear([(p) => p.backlog], compact, 3),
        say: (p) => (p.backlog == null ? "not known"
          : `${count(p.backlog, BACKLOG_BOUND)} waiting, ${p.oldest ? `the oldest ${lasting(p.oldest)} overdue` : "none is overdue"}`),
        empty: "Not known yet: Postgres has not been asked.",
      }),
      new Chart(byId("chart-lag"), group, {
        title: "Unread by the slowest consumer group",
        lines: [{ name: "unread", of: (p) => p.lag, tone: "two", fill: true }],
        scale: linear([(p) => p.lag], compact, 3),
        say: (p) => (p.lag != null ? `${count(p.lag)} unread` : p !== this.points.at(-1) ? "not known, or no group" : this.away ? "not known while Postgres is away" : this.redisSays ? "no group seen" : "not known, Redis does not say"),
        empty: "No consumer group was seen.",
      }),
    ];
  }

  /**
   * Ask for what is new and draw it. `up_s`: since the dispatcher started; of before there is nothing to draw.
   * `seen`: the overview; the last point has its backlog, or chart and tile would be of two counts.
   */
  async update(up_s, seen) {
    this.away = seen.states.some((state) => state.kind === "database" && !state.ok);
    this.redisSays = seen.stream.length != null;
    const answer = await ask(`api/history?after=${this.next}`);
    if (answer.next < this.next) this.points = []; // another start: its numbers began anew
    const fresh = answer.points.map((point) => Object.fromEntries(answer.fields.map((field, i) => [field, point[i]])));
    this.points = this.points.concat(fresh).slice(-answer.keep);
    this.next = answer.next;
    const last = this.points.at(-1);
    if (last?.backlog != null && seen.backlog != null) Object.assign(last, { backlog: seen.backlog, oldest: seen.overdue_s });
    const most = answer.every_s * answer.keep;
    const span = Math.max(LEAST_S, Math.min(most, Math.ceil(up_s / LEAST_S) * LEAST_S));
    write(byId("charts-title"), span < most ? `The last ${span / 60 === 1 ? "minute" : `${span / 60} minutes`}, since the start` : `The last ${most / 60} minutes`);
    for (const chart of this.all) chart.show(this.points, answer.every_s, span);
  }

  /** Whether no answer comes: then the last point is not now. */
  stale(yes) {
    for (const chart of this.all) chart.age(yes);
  }

  forget() {
    this.points = [];
    this.next = 0;
  }
}
