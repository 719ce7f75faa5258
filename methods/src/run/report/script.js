"use strict";
// Values under the pointer. The page is complete without this script.
const tip = document.getElementById("tip");

function element(parent, name, text, className) {
  const child = parent.appendChild(document.createElement(name));
  if (text !== undefined) child.textContent = text;
  if (className) child.className = className;
  return child;
}

function placeTip(event) {
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
  const top = Math.min(event.clientY + 14, innerHeight - box.height - 6);
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
}

function mark(svg, name, attributes) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  return svg.appendChild(shape);
}

for (const svg of document.querySelectorAll("svg.plot")) {
  const data = JSON.parse(svg.nextElementSibling.textContent);
  let marks = [];
  const clear = () => { marks.forEach((shape) => shape.remove()); marks = []; tip.hidden = true; };
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("pointermove", (event) => {
    clear();
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const found = data.series.filter((series) => series.points.length)
      .map((series) => ({ series, point: nearest(series.points) }));
    if (!found.length) return;
    const at = nearest(found.map(({ point }) => point));
    marks.push(mark(svg, "line", { class: "cursor", x1: at[0], x2: at[0], y1: data.top, y2: data.floor }));
    tip.replaceChildren();
    element(tip, "p", `${data.x} ${at[2]}`);
    for (const { series, point } of found) {
      marks.push(mark(svg, "circle", { class: `pin c${series.colour}`, cx: point[0], cy: point[1], r: 3.4 }));
      const row = element(tip, "p");
      element(row, "i", "", `k${series.colour}`);
      element(row, "span", series.label);
      element(row, "b", point[3]);
    }
    placeTip(event);
  });
}

for (const figure of document.querySelectorAll(".map")) {
  const svg = figure.querySelector("svg");
  const sheet = figure.querySelector(".sheet");
  const data = JSON.parse(figure.querySelector("script").textContent);
  svg.addEventListener("pointerover", (event) => {
    const { i, k } = event.target.dataset;
    if (i === undefined) return;
    tip.replaceChildren();
    if (sheet) {
      const [width, height] = data.cell;
      const canvas = element(tip, "canvas");
      canvas.width = width;
      canvas.height = height;
      const column = i % data.columns;
      const row = Math.floor(i / data.columns);
      canvas.getContext("2d").drawImage(sheet, column * width, row * height, width, height, 0, 0, width, height);
    }
    element(tip, "span", data.names[k]);
    placeTip(event);
  });
  svg.addEventListener("pointerout", () => { tip.hidden = true; });
  const buttons = [...figure.querySelectorAll(".keys button")];
  let pressed = null;
  const show = (k) => svg.querySelectorAll("circle")
    .forEach((dot) => dot.classList.toggle("dim", k !== null && dot.dataset.k !== k));
  for (const button of buttons) {
    const k = button.dataset.k;
    button.addEventListener("pointerenter", () => show(k));
    button.addEventListener("pointerleave", () => show(pressed));
    button.addEventListener("click", () => {
      pressed = pressed === k ? null : k;
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other.dataset.k === pressed)));
      show(pressed);
    });
  }
}
