"use strict";

// Draws each chart from the data beside it.
for (const figure of document.querySelectorAll("figure")) {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(figure.querySelector(".chart"), data, layout, { responsive: true, displayModeBar: false });
}

// Sorts a table by the column whose heading is clicked: numbers as such, missing values last, a second click the other way.
const MISSING = new Set(["", "-"]);

function toNumber(text) {
  const found = /^[-+]?[\d.,]+(?:e[-+]?\d+)?(?=$| )/i.exec(text);
  return found ? Number(found[0].replaceAll(",", "")) : NaN;
}

function cellsOf(table, column) {
  return [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
}

function isNumeric(texts) {
  const known = texts.filter((text) => !MISSING.has(text));
  return known.length > 0 && known.every((text) => Number.isFinite(toNumber(text)));
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const texts = cellsOf(table, column);
  const numeric = isNumeric(texts);
  const compare = (one, other) =>
    numeric ? toNumber(one) - toNumber(other) : one.localeCompare(other, "en", { numeric: true });
  const order = texts.map((text, place) => ({ text, place, row: table.tBodies[0].rows[place] }));
  order.sort((one, other) => {
    const missing = MISSING.has(one.text) - MISSING.has(other.text);
    return missing || (descending ? -1 : 1) * compare(one.text, other.text) || one.place - other.place;
  });
  table.tBodies[0].append(...order.map((item) => item.row));
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sortBy(table, column));
    if (isNumeric(cellsOf(table, column))) {
      for (const row of table.tBodies[0].rows) row.cells[column].classList.add("number");
    }
  });
}

// On paper everything is open and as wide as the page.
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  document.querySelectorAll(".chart").forEach((each) => { Plotly.Plots.resize(each); });
});
