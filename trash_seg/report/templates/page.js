"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NUM_SHOWN = 8;
  const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bd6", "#8c8c00", "#a65628", "#5f6b7a"];
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
  const PHONE = matchMedia("(max-width: 40rem)");
  const MOUSE = matchMedia("(pointer: fine)");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // Charts: the colours of text, grid and paper come from the style sheet, so that dark mode and print fit.
  const charts = new Map(); // id → function that gives its figure

  function themed(figure) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--line") };
    const layout = {
      ...figure.layout,
      dragmode: MOUSE.matches ? "zoom" : false, // a finger scrolls the page; a double click zooms out again
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: COLORS,
      font: { family: "system-ui, Segoe UI, Roboto, sans-serif", size: 12, color: color("--ink") },
      xaxis: { ...axis, ...figure.layout.xaxis },
      yaxis: { ...axis, ...figure.layout.yaxis },
      hoverlabel: { bgcolor: color("--panel"), bordercolor: color("--line"), font: { color: color("--ink") }, align: "left" },
    };
    return { data: figure.data, layout };
  }

  function draw(id) {
    const place = byId(id);
    if (!place) return;
    const { data: traces, layout } = themed(charts.get(id)());
    if (place.classList.contains("wide")) { // a heat map keeps its cells legible and scrolls instead
      layout.width = Math.max(place.clientWidth, 44 * traces[0].x.length + 240);
    }
    Plotly.react(place, structuredClone(traces), layout, CONFIG);
  }

  function drawAll() {
    for (const id of charts.keys()) draw(id);
  }

  function curves() {
    const metric = byId("curve-metric").value;
    const ticked = new Set(all("#board input:checked").map((box) => Number(box.dataset.row)));
    const traces = [];
    data.curves.filter((curve) => ticked.has(curve.row)).forEach((curve, index) => {
      const band = curve.metrics[metric];
      const x = band.mean.map((_, epoch) => epoch + 1);
      const color = COLORS[index % COLORS.length];
      const common = { type: "scatter", x, legendgroup: String(curve.row), line: { color } };
      if (band.low) {
        const edge = { ...common, mode: "lines", hoverinfo: "skip", showlegend: false, line: { width: 0, color } };
        traces.push({ ...edge, y: band.low }, { ...edge, y: band.high, fill: "tonexty", fillcolor: color + "26" });
      }
      const hovertemplate = `${curve.label}<br>epoch %{x}: %{y:.4f}<extra></extra>`;
      traces.push({ ...common, y: band.mean, name: curve.label, mode: "lines+markers", marker: { size: 5 }, hovertemplate });
    });
    const published = byId("curve-published");
    if (published && published.value && metric === "miou") traces.push(...data.published);
    const layout = {
      height: 520,
      margin: { l: 10, r: 10, t: 10, b: 10 },
      hovermode: "closest",
      legend: PHONE.matches ? { orientation: "h", y: -0.2, yanchor: "top" } : {},
      xaxis: { title: { text: "epoch" }, automargin: true, dtick: x_step(traces) },
      yaxis: { title: { text: data.metrics[metric] }, automargin: true },
      annotations: traces.length ? [] : [{ text: "Tick rows in the leaderboard", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
    };
    return { data: traces, layout };
  }

  function x_step(traces) {
    const longest = Math.max(1, ...traces.map((trace) => trace.x.length));
    return longest <= 20 ? 1 : undefined;
  }

  charts.set("chart-pairs", () => data.heat_map);
  charts.set("chart-curves", curves);
  if (data.cost) {
    charts.set("chart-cost", () => data.cost[byId("cost-axis").value]);
    charts.set("chart-classes", () => data.classes);
  }
  if (data.confusion.length) charts.set("chart-confusion", () => data.confusion[byId("confusion-row").value]);

  // Leaderboard: sort by a column, filter by text and choices.
  const body = document.querySelector("#board tbody");
  const rows = all("tr", body);
  const headings = all("#board thead th[aria-sort]");
  const filters = all("[data-filter]");

  function compare(a, b, column, sign) {
    const [x, y] = [a, b].map((row) => row.cells[column].dataset.v);
    if (x === "" || y === "") return (x === "") - (y === ""); // what has no value stays last
    const [p, q] = [Number(x), Number(y)];
    return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
  }

  function sort(heading) {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const column = heading.cellIndex;
    body.append(...rows.toSorted((a, b) => compare(a, b, column, ascending ? 1 : -1)));
  }

  function filter() {
    const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const kept = words.every((word) => text.includes(word))
        && filters.every((choice) => !choice.value || row.dataset[choice.dataset.filter] === choice.value);
      row.hidden = !kept;
      shown += kept;
    }
    byId("shown").textContent = `${shown} of ${rows.length} configurations`;
  }

  for (const choice of filters) {
    const values = new Set(rows.map((row) => row.dataset[choice.dataset.filter]).filter(Boolean));
    const sorted = [...values].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    choice.append(...sorted.map((value) => new Option(value, value)));
    choice.addEventListener("change", filter);
    if (values.size < 2) choice.parentElement.hidden = true;
  }
  headings.forEach((heading) => heading.firstElementChild.addEventListener("click", () => sort(heading)));
  byId("filter-text").addEventListener("input", filter);
  byId("reset").addEventListener("click", () => {
    byId("filter-text").value = "";
    filters.forEach((choice) => { choice.value = ""; });
    headings.forEach((heading) => heading.setAttribute("aria-sort", "none"));
    body.append(...rows);
    filter();
  });

  const shownFirst = new Set(
    data.curves.toSorted((a, b) => !a.group - !b.group || a.group.localeCompare(b.group) || a.rank - b.rank)
      .slice(0, NUM_SHOWN).map((curve) => curve.row),
  );
  const drawable = new Set(data.curves.map((curve) => curve.row));
  for (const box of all("#board input[data-row]")) {
    const row = Number(box.dataset.row);
    box.checked = shownFirst.has(row);
    box.disabled = !drawable.has(row);
    box.addEventListener("change", () => draw("chart-curves"));
  }

  const redraw = { "curve-metric": "chart-curves", "curve-published": "chart-curves", "cost-axis": "chart-cost", "confusion-row": "chart-confusion" };
  for (const [id, chart] of Object.entries(redraw)) byId(id)?.addEventListener("change", () => draw(chart));

  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch { // a page from a file may not reach the clipboard: select it instead
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  filter();
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  document.documentElement.dataset.ready = "true";
})();
