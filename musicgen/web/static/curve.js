/** A training's curves as a picture: loss while it learns, and held-out bits a note. */

import { svg } from "./dom.js";

const [WIDE, HIGH, LEFT, RIGHT, TOP, LOW] = [640, 220, 44, 44, 14, 26];

/**
 * @param {{points: [number, number][], className: string, side: "left" | "right"}[]} lines
 * @param {string} title what a reader of the screen hears
 */
export function curvePicture(lines, title) {
  const drawn = lines.filter(({ points }) => points.length);
  const last = Math.max(1, ...drawn.flatMap(({ points }) => points.map(([step]) => step)));
  const across = (step) => LEFT + ((WIDE - LEFT - RIGHT) * step) / last;
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title, class: "curve" });
  picture.append(...stepAxis(last, across));
  for (const line of drawn) picture.append(...oneLine(line, across));
  return picture;
}

function oneLine({ points, className, side }, across) {
  const values = points.map(([, value]) => value);
  const [low, high] = spread(Math.min(...values), Math.max(...values));
  const up = (value) => HIGH - LOW - ((HIGH - LOW - TOP) * (value - low)) / (high - low);
  const path = points.map(([step, value], at) => `${at ? "L" : "M"}${fixed(across(step))} ${fixed(up(value))}`);
  const marks = points.length < 60 && side === "right"
    ? points.map(([step, value]) => svg("circle", { cx: fixed(across(step)), cy: fixed(up(value)), r: 3, class: className }))
    : [];
  return [...valueAxis(low, high, up, side, className), svg("path", { d: path.join(""), class: className }), ...marks];
}

function valueAxis(low, high, up, side, className) {
  const [x, anchor] = side === "left" ? [LEFT - 8, "end"] : [WIDE - RIGHT + 8, "start"];
  return ticks(low, high).map((value) =>
    svg("text", { x, y: fixed(up(value) + 4), "text-anchor": anchor, class: className, text: shown(value) }));
}

function stepAxis(last, across) {
  const base = HIGH - LOW;
  const line = svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: base, y2: base, class: "axis" });
  const words = ticks(0, last).filter(Number.isInteger).map((step) =>
    svg("text", { x: fixed(across(step)), y: HIGH - 6, "text-anchor": "middle", text: step.toLocaleString("en") }));
  return [line, ...words];
}

/** Choose round values between two. */
function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, at) => round((first + at) * step));
}

function spread(low, high) {
  const pad = (high - low) * 0.06 || 0.5;
  return [low - pad, high + pad];
}

const round = (value) => Number(value.toPrecision(6));
const shown = (value) => String(round(value));
const fixed = (value) => value.toFixed(1);
