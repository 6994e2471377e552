"use strict";
// The page of a test. Texts are only set as text, never as HTML: names of files may be anything.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const counted = data.images.filter((image) => image.counts);
const good = counted.filter((image) => !image.defective).map((image) => image.score);
const defective = counted.filter((image) => image.defective).map((image) => image.score);
const AT_ONCE = 60; // images that are added to the gallery together
const STEPS = 1000; // of the slider
let threshold = data.start;
let chosen = []; // the images that the filters leave, in their order
let shown = 0; // how many of them are in the gallery
let current = 0; // the one in the viewer

// ---- threshold ----------------------------------------------------------------------------------------------

function share(score) {
  const { low, high, log } = data.axis;
  const scale = log ? (value) => Math.log(Math.max(value, low)) : (value) => value;
  return Math.min(Math.max((scale(score) - scale(low)) / (scale(high) - scale(low)), 0), 1);
}

function scoreAt(position) {
  const { low, high, log } = data.axis;
  return log ? low * (high / low) ** position : low + position * (high - low);
}

function errorOf(image) {
  if (!image.counts) return "";
  if (image.defective) return image.score > threshold ? "" : "missed";
  return image.score > threshold ? "rejected" : "";
}

function moveThreshold(value) {
  threshold = value;
  const { start, end } = data.axis;
  const x = start + share(value) * (end - start);
  byId("threshold").value = Math.round(share(value) * STEPS);
  byId("threshold").setAttribute("aria-valuetext", value.toPrecision(4));
  byId("threshold-value").value = Number(value.toPrecision(6));
  place(byId("threshold-line"), { x1: x, x2: x });
  place(byId("false-reject-area"), { x, width: end - x });
  place(byId("miss-area"), { x: start, width: x - start });
  const rejects = good.filter((score) => score > value).length;
  const hits = defective.filter((score) => score > value).length;
  byId("false-rejects").textContent = counts(rejects, good.length);
  byId("misses").textContent = counts(defective.length - hits, defective.length);
  if (byId("roc-point")) {
    const recall = hits / defective.length;
    const precision = hits + rejects ? hits / (hits + rejects) : 1;
    place(byId("roc-point"), { cx: (240 * rejects) / good.length, cy: 240 * (1 - recall) });
    place(byId("pr-point"), { cx: 240 * recall, cy: 240 * (1 - precision) });
  }
}

function place(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

function counts(count, of) {
  return of ? `${count} of ${of} (${((100 * count) / of).toFixed(1)} %)` : "there are none";
}

// ---- gallery ------------------------------------------------------------------------------------------------

const currentView = () => document.querySelector("input[name=view]:checked").value;

function choose() {
  const order = byId("order").value;
  const type = byId("type").value;
  const error = byId("error").value;
  const fits = (kind) => !error || (error === "any" ? kind !== "" : kind === error);
  chosen = data.images.filter((image) => (!type || image.type === type) && fits(errorOf(image)));
  if (order !== "name") chosen.sort((a, b) => (order === "high" ? b.score - a.score : a.score - b.score));
  byId("gallery").replaceChildren();
  shown = 0;
  showMore();
}

function showMore() {
  const view = currentView();
  const next = chosen.slice(shown, shown + AT_ONCE);
  byId("gallery").append(...next.map((image, k) => card(image, shown + k, view)));
  shown += next.length;
  byId("more").hidden = shown === chosen.length;
  byId("shown").textContent = `${chosen.length} of ${data.images.length} images`;
}

function card(image, position, view) {
  const button = element("button", "card" + (image.defective ? " defective" : ""));
  button.type = "button";
  button.dataset.name = image.name;
  const error = { missed: "missed", rejected: "falsely rejected", "": "" }[errorOf(image)];
  const facts = [`score ${image.score.toPrecision(4)}`, error, image.decision].filter(Boolean).join(" · ");
  button.append(picture(image, view), element("b", "", image.name), document.createElement("br"), facts);
  button.addEventListener("click", () => open(position));
  return button;
}

function picture(image, view) {
  const whole = element("span", "picture");
  whole.style.aspectRatio = image.size.join("/"); // nothing moves when a picture is decoded
  const base = view === "mask" ? "image" : view;
  whole.append(img(image.pictures[base] ?? image.pictures.image, `${view} of ${image.name}`));
  if (view !== "image" && image.pictures.mask) whole.append(img(image.pictures.mask, ""));
  return whole;
}

function img(source, text) {
  const found = document.createElement("img");
  found.loading = "lazy";
  found.decoding = "async";
  found.alt = text;
  found.src = source;
  return found;
}

function element(tag, name, text = "") {
  const found = document.createElement(tag);
  found.className = name;
  found.textContent = text;
  return found;
}

function changeView() {
  const view = currentView();
  for (const legend of document.querySelectorAll(".legend")) legend.hidden = legend.dataset.view !== view;
  [...byId("gallery").children].forEach((button, k) => button.firstChild.replaceWith(picture(chosen[k], view)));
}

// ---- viewer -------------------------------------------------------------------------------------------------

function open(position) {
  current = Math.min(Math.max(position, 0), chosen.length - 1);
  const image = chosen[current];
  byId("viewer-name").textContent = image.name;
  byId("viewer-facts").textContent = [
    image.defective ? "defective" : "good",
    `score ${image.score.toPrecision(6)}`,
    { missed: "missed at this threshold", rejected: "falsely rejected at this threshold", "": "" }[errorOf(image)],
    image.decision && `decision of the calibration: ${image.decision}`,
    !image.counts && "does not count: its defect is outside of the region of interest",
  ].filter(Boolean).join(" · ");
  byId("viewer-pictures").replaceChildren(...data.views.filter((view) => view in image.pictures).map((view) => {
    const figure = element("figure", "");
    figure.append(picture(image, view), element("figcaption", "", view));
    return figure;
  }));
  byId("viewer-page").href = image.page;
  byId("previous").disabled = current === 0;
  byId("next").disabled = current === chosen.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

// ---- events -------------------------------------------------------------------------------------------------

let waiting = 0;
function thresholdMoved(value) {
  moveThreshold(value);
  clearTimeout(waiting); // the gallery follows when the slider rests
  waiting = setTimeout(choose, 150);
}

byId("threshold").addEventListener("input", (event) => thresholdMoved(scoreAt(event.target.value / STEPS)));
byId("threshold-value").addEventListener("change", (event) => {
  const value = event.target.valueAsNumber;
  thresholdMoved(Number.isFinite(value) ? value : threshold);
});
for (const button of document.querySelectorAll("[data-move]")) {
  const lowest = defective.reduce((a, b) => Math.min(a, b), Infinity); // Math.min(...defective) fails with 130,000 of them
  const highest = good.reduce((a, b) => Math.max(a, b), -Infinity);
  const values = { start: data.start, "no-miss": lowest - 1e-6 * Math.abs(lowest), "no-reject": highest };
  const value = values[button.dataset.move];
  button.disabled = !Number.isFinite(value);
  button.addEventListener("click", () => thresholdMoved(value));
}
for (const id of ["order", "type", "error"]) byId(id).addEventListener("change", choose);
byId("views").addEventListener("change", changeView);
byId("more").addEventListener("click", showMore);
byId("previous").addEventListener("click", () => open(current - 1));
byId("next").addEventListener("click", () => open(current + 1));
byId("viewer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") open(current - 1);
  if (event.key === "ArrowRight") open(current + 1);
});
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) showMore();
}, { rootMargin: "600px" }).observe(byId("more"));

byId("order").value = "high"; // browsers keep what was chosen before a reload
moveThreshold(threshold);
changeView();
choose();
