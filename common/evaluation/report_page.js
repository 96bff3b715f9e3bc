// Sorts tables and photographs, and filters them. Without it the page shows the same, in its order.
"use strict";

const collator = new Intl.Collator("en", { numeric: true });

// Put the children of an element into the order of `keyOf(child)`; equal ones keep their order.
function sortChildren(parent, keyOf, descending) {
  const keyed = Array.from(parent.children, (child) => [keyOf(child), child]);
  const compare =
    typeof keyed[0]?.[0] === "number" ? (a, b) => a - b : (a, b) => collator.compare(a, b);
  const sign = descending ? -1 : 1;
  keyed.sort(([a], [b]) => sign * compare(a, b));
  parent.replaceChildren(...keyed.map(([, child]) => child));
}

// "12,345" or "33.3%" as a number.
function numberIn(element) {
  return Number(element.textContent.replace(/[,%]/g, ""));
}

function nameIn(element) {
  return (element.querySelector(".name") ?? element).textContent;
}

// Turn the headers of a table into buttons: the first click on a number shows the largest first.
function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const isNumber = header.classList.contains("number");
    const keyOf = (row) => (isNumber ? numberIn : nameIn)(row.cells[column]);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const descending = before === null ? isNumber : before === "ascending";
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortChildren(table.tBodies[0], keyOf, descending);
    });
  });
}

// Hide the items that have another super-category or frequency, or other names, than is asked for.
function makeFilter(form) {
  const counted = document.getElementById(form.dataset.counts);
  const items = Array.from(document.querySelectorAll(".item"), (element) => ({
    element,
    names: Array.from(element.querySelectorAll(".name"), (each) => each.textContent.toLowerCase()),
  }));
  const selects = [...form.querySelectorAll("select[data-filters]")];
  const apply = () => {
    const name = form.elements.name.value.trim().toLowerCase();
    for (const { element, names } of items) {
      const isChosen = selects.every(
        (select) => !select.value || element.dataset[select.name] === select.value,
      );
      element.hidden = !isChosen || !names.some((each) => each.includes(name));
    }
    const shown = counted.querySelectorAll(":scope > .item:not([hidden])").length;
    const total = counted.children.length;
    form.querySelector("output").textContent =
      `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} ${form.dataset.unit}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  document.body.classList.add("with-filter");
  apply(); // the browser may have kept what was typed before a reload
}

// Sort photographs as a <select> says: by name, the most or the least certain first, as they were.
function makePhotographsSortable(select) {
  const photographs = document.getElementById(select.dataset.sorts);
  const place = new Map(Array.from(photographs.children, (each, index) => [each, index]));
  const probability = (item) => Number(item.dataset.probability);
  const orders = {
    file: [(item) => place.get(item), false],
    name: [nameIn, false],
    most: [probability, true],
    least: [probability, false],
  };
  select.addEventListener("change", () => sortChildren(photographs, ...orders[select.value]));
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
}
document.querySelectorAll("form.filter").forEach(makeFilter);
document.querySelectorAll("select[data-sorts]").forEach(makePhotographsSortable);
