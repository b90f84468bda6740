/** The loss chart of a training run, as SVG. */

import { svg } from "/static/render/dom.js";

const [WIDTH, HEIGHT] = [640, 220];
const MARGIN = { left: 44, right: 44, top: 14, bottom: 26 };
const MAX_MARKERS = 60; // a curve of more points is drawn without markers

/**
 * @typedef {{points: [number, number][], className: string, side: "left" | "right"}} Curve
 *   points: [step, value]; side: where its axis is
 */

/** @param {Curve[]} curves @param {string} description for screen readers */
export function createLossChart(curves, description) {
  const shown = curves.filter(({ points }) => points.length);
  const lastStep = Math.max(1, ...shown.flatMap(({ points }) => points.map(([step]) => step)));
  const x = (step) => MARGIN.left + ((WIDTH - MARGIN.left - MARGIN.right) * step) / lastStep;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": description, class: "curve" });
  chart.append(...createStepAxis(lastStep, x));
  for (const curve of shown) chart.append(...createCurve(curve, x));
  return chart;
}

function createCurve({ points, className, side }, x) {
  const values = points.map(([, value]) => value);
  const [low, high] = padRange(Math.min(...values), Math.max(...values));
  const y = (value) => HEIGHT - MARGIN.bottom - ((HEIGHT - MARGIN.bottom - MARGIN.top) * (value - low)) / (high - low);
  const path = points.map(([step, value], index) => `${index ? "L" : "M"}${format(x(step))} ${format(y(value))}`);
  const markers = points.length < MAX_MARKERS && side === "right"
    ? points.map(([step, value]) => svg("circle", { cx: format(x(step)), cy: format(y(value)), r: 3, class: className }))
    : [];
  return [...createValueAxis(low, high, y, side, className), svg("path", { d: path.join(""), class: className }), ...markers];
}

function createValueAxis(low, high, y, side, className) {
  const [x, anchor] = side === "left" ? [MARGIN.left - 8, "end"] : [WIDTH - MARGIN.right + 8, "start"];
  return ticks(low, high).map((value) =>
    svg("text", { x, y: format(y(value) + 4), "text-anchor": anchor, class: className, text: String(value) }));
}

function createStepAxis(lastStep, x) {
  const base = HEIGHT - MARGIN.bottom;
  const line = svg("line", { x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: base, y2: base, class: "axis" });
  const labels = ticks(0, lastStep).filter(Number.isInteger).map((step) =>
    svg("text", { x: format(x(step)), y: HEIGHT - 6, "text-anchor": "middle", text: step.toLocaleString("en") }));
  return [line, ...labels];
}

/** Return round values within a range, at most five or so. */
function ticks(low, high) {
  const roughStep = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(roughStep));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= roughStep) * power;
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(6)));
}

function padRange(low, high) {
  const padding = (high - low) * 0.06 || 0.5;
  return [low - padding, high + padding];
}

const format = (coordinate) => coordinate.toFixed(1);
