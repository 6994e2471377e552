"use strict";
// The page of a benchmark. Texts are only set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PLOT = { left: 56, right: 606, top: 14, bottom: 306 };

function element(tag, text = "", name = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  found.className = name;
  return found;
}

function draw(tag, attributes, text = "") {
  const found = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.textContent = text;
  byId("scatter").append(found);
  return found;
}

// ---- matrix -------------------------------------------------------------------------------------------------

const valueOf = (row, category, key) => row.values[category]?.[key];

function percent([mean, deviation]) {
  return (100 * mean).toFixed(1) + (deviation === null ? "" : ` ± ${(100 * deviation).toFixed(1)}`);
}

const range = ([, , low, high]) => (low === undefined ? "" : `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)}`);

function showMatrix() {
  const key = byId("metric").value;
  const all = data.rows.flatMap((row) => data.categories.map((name) => valueOf(row, name, key)?.[0] ?? []).flat());
  const low = Math.min(...all);
  const span = Math.max(...all) - low || 1;
  const head = element("tr");
  head.append(...["method", ...data.categories].map((name) => element("th", name)));
  const rows = data.rows.map((row) => {
    const line = element("tr");
    const name = element("th", row.name);
    name.scope = "row";
    line.append(name, ...data.categories.map((category) => {
      const value = valueOf(row, category, key);
      const cell = element("td", value ? percent(value) : "");
      if (!value) return cell;
      if (range(value)) cell.append(element("small", range(value)));
      const best = Math.max(...data.rows.map((other) => valueOf(other, category, key)?.[0] ?? -Infinity));
      cell.style.setProperty("--share", `${Math.round((45 * (value[0] - low)) / span)}%`);
      cell.className = value[0] === best ? "shaded best" : "shaded";
      return cell;
    }));
    return line;
  });
  const parts = [element("thead"), element("tbody")];
  parts[0].append(head);
  parts[1].append(...rows);
  byId("matrix").replaceChildren(...parts);
}

// ---- accuracy against cost ----------------------------------------------------------------------------------

function points() {
  const metric = byId("metric").value;
  const cost = byId("cost").value;
  return data.rows.map((row) => {
    const values = row.values[data.overall] ?? {};
    return { name: row.name, cost: values[cost]?.[0], value: values[metric]?.[0] };
  });
}

// The points that no other one beats in both, the cheapest first.
function paretoFront(found) {
  let best = -Infinity;
  const ordered = [...found].sort((a, b) => a.cost - b.cost || b.value - a.value);
  return ordered.filter((point) => point.value > best && ((best = point.value), true));
}

function showScatter() {
  const all = points();
  const found = all.filter((point) => point.cost > 0 && point.value !== undefined);
  const missing = all.filter((point) => !found.includes(point)).map((point) => point.name);
  byId("missing").textContent = missing.length ? `Not shown, because a value is missing: ${missing.join(", ")}.` : "";
  byId("scatter").replaceChildren();
  if (!found.length) return;
  const x = logAxis(found.map((point) => point.cost));
  const y = linearAxis(found.map((point) => 100 * point.value));
  for (const value of x.ticks) {
    draw("line", { class: "grid", x1: x.at(value), x2: x.at(value), y1: PLOT.top, y2: PLOT.bottom });
    draw("text", { x: x.at(value), y: PLOT.bottom + 18, "text-anchor": "middle" }, String(value));
  }
  for (const value of y.ticks) {
    draw("line", { class: "grid", x1: PLOT.left, x2: PLOT.right, y1: y.at(value), y2: y.at(value) });
    draw("text", { x: PLOT.left - 6, y: y.at(value) + 4, "text-anchor": "end" }, String(value));
  }
  const label = { metric: data.labels[byId("metric").value], cost: data.labels[byId("cost").value] };
  const middle = (PLOT.top + PLOT.bottom) / 2;
  draw("text", { x: (PLOT.left + PLOT.right) / 2, y: PLOT.bottom + 40, "text-anchor": "middle" }, label.cost);
  draw("text", { transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, `${label.metric}, %`);
  const front = paretoFront(found);
  const corners = front.flatMap((point, k) => {
    const next = k + 1 < front.length ? x.at(front[k + 1].cost) : PLOT.right;
    return [[x.at(point.cost), y.at(100 * point.value)], [next, y.at(100 * point.value)]];
  });
  draw("polyline", { class: "front", points: corners.map((corner) => corner.join(",")).join(" ") });
  const height = parseFloat(getComputedStyle(byId("scatter")).fontSize);
  const last = { start: -Infinity, end: -Infinity };
  for (const point of [...found].sort((a, b) => b.value - a.value)) {
    const [cx, cy] = [x.at(point.cost), y.at(100 * point.value)];
    const dot = draw("circle", { cx, cy, r: 5, class: front.includes(point) ? "on-front" : "behind" });
    dot.append(document.createElementNS(SVG, "title"));
    dot.firstChild.textContent = `${point.name}: ${(100 * point.value).toFixed(1)} %, ${point.cost.toPrecision(3)}`;
    const side = cx < (PLOT.left + PLOT.right) / 2 ? "start" : "end";
    last[side] = Math.max(cy + height + 3, last[side] + 1.1 * height); // names do not overlap
    draw("text", { x: side === "start" ? cx + 7 : cx - 7, y: last[side], "text-anchor": side }, point.name);
  }
}

function logAxis(values) {
  const low = Math.min(...values) / 1.3;
  const high = Math.max(...values) * 1.3;
  const at = (value) => PLOT.left + (Math.log(value / low) / Math.log(high / low)) * (PLOT.right - PLOT.left);
  return { at, ticks: decades(low, high) };
}

function decades(low, high) {
  const found = [];
  const few = high / low < 1000;
  for (let n = Math.floor(Math.log10(low)); n <= Math.log10(high); n += 1) {
    for (const k of few ? [1, 2, 5] : [1]) found.push(Number(`${k}e${n}`));
  }
  return found.filter((value) => value >= low && value <= high);
}

function linearAxis(values) {
  const span = Math.max(...values) - Math.min(...values) || 1;
  const low = Math.min(...values) - 0.1 * span;
  const high = Math.max(...values) + 0.1 * span;
  const rough = (high - low) / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((value) => value >= rough);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  const at = (value) => PLOT.bottom - ((value - low) / (high - low)) * (PLOT.bottom - PLOT.top);
  return { at, ticks: Array.from({ length: count }, (_, k) => Number(((first + k) * step).toPrecision(10))) };
}

function showAll() {
  showMatrix();
  if (byId("cost")) showScatter();
}

for (const id of ["metric", "cost"]) byId(id)?.addEventListener("change", showAll);
showAll();
