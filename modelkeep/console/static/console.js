"use strict";
// What moves on a page: the parts that the server draws anew each second, and two charts. All else works without this.

const KEPT = 600;
const AGAIN = 5000;
const main = document.getElementById("main");
const pulse = document.getElementById("pulse");
const shown = new Map();
let points = [];
let charts = [];

// ── times in the reader's own zone ──

const clock = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// on a chart of several days the day is told as well
function tick(chart, seconds) {
  const [first, last, at] = [chart.scales.x.min, chart.scales.x.max, seconds].map((one) => new Date(one * 1000));
  if (first.toDateString() === last.toDateString()) return clock(at);
  return at.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

function localise(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const today = at.toDateString() === new Date().toDateString();
    time.title = at.toLocaleString();
    time.textContent = today ? clock(at) : at.toLocaleString([], { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
  }
}

// ── parts that the server draws ──

function place(html) {
  for (const [id, text] of Object.entries(html)) {
    const part = document.getElementById(id);
    if (!part || shown.get(id) === text || busy(part)) continue;
    shown.set(id, text);
    const scrolled = [...part.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    part.innerHTML = text;
    part.querySelectorAll(".wide").forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
    localise(part);
  }
}

// what a person reads by keyboard or has selected is left alone until they leave it
function busy(part) {
  const selection = document.getSelection();
  return part.querySelector(":focus-visible") || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

// ── charts ──

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString([], { maximumSignificantDigits: 3 }));
const line = ([, label, name]) => ({ label, stroke: colour(name), width: 1.75, value: (_, v) => number(v), points: { show: false }, gaps });

// a line breaks where its points are so many times as far apart as they usually are: what was then, nobody knows
const GAP = 4;

function gaps(chart, at, from, to) {
  const known = chart.data[0].filter((_, i) => i >= from && i <= to && chart.data[at][i] !== null);
  const steps = known.slice(1).map((x, i) => x - known[i]);
  const usual = steps.toSorted((a, b) => a - b)[steps.length >> 1];
  const place = (x) => chart.valToPos(x, "x", true);
  return steps.flatMap((step, i) => (step > GAP * usual ? [[place(known[i]), place(known[i + 1])]] : []));
}

// by column of a point; one that is ``always`` is drawn though there is nothing to draw
const KINDS = {
  traffic: { unit: 1, lines: [[1, "live", "live", true], [2, "canary", "canary"], [3, "failed", "bad"]] },
  latency: { unit: 1000, lines: [[4, "p50 live", "before", true], [5, "p99 live", "live", true], [6, "p99 canary", "canary"]] },
};

const drawn = (kind) => KINDS[kind].lines.filter(([column, , , always]) => always || points.some((p) => p[column]));
const columns = (kind) => drawn(kind).map(([column]) => column).join();

function data(kind) {
  const { unit } = KINDS[kind];
  return [points.map((p) => p[0]), ...drawn(kind).map(([c]) => points.map((p) => (p[c] === null ? null : p[c] * unit)))];
}

function plot(place, series, values, bands) {
  const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const chart = new uPlot({
    width: place.clientWidth,
    height: 190,
    series: [{ value: (chart, at) => (at === null ? "–" : tick(chart, at)) }, ...series],
    bands,
    axes: [{ ...axis, space: 100, size: 32, values: (chart, ticks) => ticks.map((at) => tick(chart, at)) }, { ...axis, size: 52, values: (_, ticks) => ticks.map(number) }],
    scales: { y: { range: (_, low, high) => (bands.length ? [Math.min(low, 95), 100] : [0, high > 0 ? high * 1.1 : 1]) } },
    cursor: { drag: { x: false, y: false } },
  }, values, place);
  charts.push(chart);
  return chart;
}

function draw() {
  for (const chart of charts) chart.destroy();
  charts = [];
  if (!window.uPlot) return;
  for (const place of document.querySelectorAll("[data-chart]")) {
    const kind = place.dataset.chart;
    Object.assign(plot(place, drawn(kind).map(line), data(kind), []), { kind, columns: columns(kind) });
  }
  for (const place of document.querySelectorAll("[data-series]")) {
    const { x, lines, band, unit } = JSON.parse(place.dataset.series);
    const values = lines.map(([, , each]) => each.map((value) => (value === null ? null : value * unit)));
    const bands = band ? [{ series: [3, 2], fill: colour("soft") }] : [];
    plot(place, lines.map(([label, name]) => line([0, label, name])), [x, ...values], bands);
  }
}

function fit() {
  for (const chart of charts) {
    const width = chart.root.parentElement.clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: chart.height });
  }
}

function add(point) {
  points.push(point);
  if (points.length > KEPT) points.shift();
  const moving = charts.filter((chart) => chart.kind);
  if (moving.some((chart) => chart.columns !== columns(chart.kind))) draw();
  else for (const chart of moving) chart.setData(data(chart.kind));
}

// ── server-sent events, while somebody looks ──

let stream = null;
let waiting = 0;

function tell(state, text) {
  if (pulse.dataset.state === state) return;
  pulse.dataset.state = state;
  pulse.textContent = text;
}

function close() {
  window.clearTimeout(waiting);
  if (stream) stream.close();
  stream = null;
}

function open() {
  close();
  stream = new EventSource(document.body.dataset.live);
  stream.addEventListener("history", (event) => { points = JSON.parse(event.data); draw(); });
  stream.addEventListener("look", (event) => {
    const { point, html } = JSON.parse(event.data);
    tell("live", "live");
    if (point) add(point);
    place(html);
  });
  stream.addEventListener("end", () => { close(); window.location.reload(); });
  stream.onerror = () => {
    tell("lost", "not live: trying again");
    close();
    waiting = window.setTimeout(open, AGAIN);
  };
}

localise(document);
draw();
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(fit).observe(main);
if (document.body.dataset.live) {
  open();
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
}
