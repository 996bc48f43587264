"use strict";
(() => {
  const table = document.getElementById("photographs");
  if (!table) return;
  const PAGE = 100;
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const first = headings.findIndex((heading) => heading.dataset.measure !== undefined);
  const rows = [...body.rows].map((element) => ({
    element,
    text: element.textContent.toLowerCase(),
    keys: [...element.cells].map((cell, column) => {
      const key = cell.dataset.sort;
      if (column < first && key === undefined) return cell.textContent.trim();
      return key === "" || key === undefined ? null : Number(key);
    }),
  }));
  const $ = (id) => document.getElementById(id);
  let chosen = rows, page = 0, sorted = { column: 0, sign: 1 };
  const collator = new Intl.Collator(undefined, { numeric: true });

  const compare = (a, b) => {
    const [x, y] = [a.keys[sorted.column], b.keys[sorted.column]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sorted.sign * (typeof x === "string" ? collator.compare(x, y) : x - y);
  };
  const show = (from, to) => body.replaceChildren(...chosen.slice(from, to).map((row) => row.element));
  const draw = () => {
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    page = Math.min(page, pages - 1);
    show(page * PAGE, (page + 1) * PAGE);
    $("count").textContent = `${chosen.length} of ${rows.length}`;
    $("pages").hidden = pages === 1;
    $("page").textContent = `page ${page + 1} of ${pages}`;
    $("before").disabled = page === 0;
    $("after").disabled = page === pages - 1;
  };
  const filter = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const quality = $("quality").value;
    const measure = $("measure").value === "" ? -1 : first + Number($("measure").value);
    const low = $("low").value === "" ? -Infinity : Number($("low").value);
    const high = $("high").value === "" ? Infinity : Number($("high").value);
    chosen = rows.filter(({ element, text, keys }) =>
      words.every((word) => text.includes(word)) &&
      (!quality || element.dataset.quality === quality) &&
      (measure < 0 || (low === -Infinity && high === Infinity) ||
        (keys[measure] !== null && keys[measure] >= low && keys[measure] <= high)));
    chosen.sort(compare);
    page = 0;
    draw();
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const again = sorted.column === column;
      sorted = { column, sign: again ? -sorted.sign : 1 };
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
      filter();
    });
  });
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("before").addEventListener("click", () => { page -= 1; draw(); });
  $("after").addEventListener("click", () => { page += 1; draw(); });
  addEventListener("beforeprint", () => show(0, chosen.length));
  addEventListener("afterprint", draw);
  filter();
})();
