"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const [L, H] = [data.layers.length, data.heads];
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d00", "#7b5ab5", "#6f7f8c", "#b5d334", "#a3354a", "#2f4858"];
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const offsets = bytes(data.offsets);
  const maps = data.overlays ? bytes(data.overlays.maps) : null;
  const state = { head: data.top, linked: new Map(), cluster: null, polygon: [] };
  const name = (head) => `L${Math.floor(head / H)} H${head % H}`;
  const there = (head) => data.there[head];
  const short = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.095 ? value.toFixed(2)
      : size >= 0.0095 ? value.toFixed(3) : value.toExponential(0);
  };

  const mix = (stops, t) => {
    const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const k = Math.min(Math.floor(at), stops.length - 2);
    return stops[k].map((low, c) => Math.round(low + (at - k) * (stops[k + 1][c] - low)));
  };
  const BLUES = [[240, 246, 252], [172, 205, 232], [86, 152, 206], [28, 95, 159], [10, 47, 87]];
  const BOTH = [[150, 60, 10], [230, 150, 90], [245, 245, 245], [86, 152, 206], [10, 47, 87]];
  const HEAT = [[60, 0, 140], [190, 30, 160], [255, 140, 40], [255, 250, 120]];
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  const ink = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111" : "#fff");
  const svg = (kind, values, parent) => {
    const element = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const text = (parent, x, y, content, values = {}) => {
    svg("text", { x, y, ...values }, parent).textContent = content;
  };
  const titled = (element, words) => { svg("title", {}, element).textContent = words; };
  const sized = (canvas, width, height) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  };
  const paint = (canvas, values, width, height, start = 0) => {
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    for (let k = 0; k < width * height; k += 1) image.data.set([...mix(BLUES, values[start + k] / 255), 255], 4 * k);
    canvas.getContext("2d").putImageData(image, 0, 0);
  };

  // Heads by layer
  const buttons = [];
  const matrix = $("matrix");
  const heading = matrix.createTHead().insertRow();
  heading.append(document.createElement("td"));
  for (let h = 0; h < H; h += 1) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = `H${h}`;
    heading.append(cell);
  }
  for (let l = 0; l < L; l += 1) {
    const row = (matrix.tBodies[0] || matrix.createTBody()).insertRow();
    const cell = document.createElement("th");
    cell.scope = "row";
    cell.textContent = `L${l}`;
    cell.title = data.layers[l];
    row.append(cell);
    for (let h = 0; h < H; h += 1) {
      const head = l * H + h;
      const place = row.insertCell();
      if (!there(head)) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.head = head;
      place.append(button);
      buttons[head] = button;
    }
  }
  matrix.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(Number(button.dataset.head));
  });
  matrix.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -H, ArrowDown: H }[event.key];
    if (!step) return;
    event.preventDefault();
    const column = Math.abs(step) === 1;
    for (let head = state.head + step; head >= 0 && head < L * H; head += step) {
      if (column && Math.floor(head / H) !== Math.floor(state.head / H)) return;
      if (!there(head)) continue;
      choose(head);
      buttons[head].focus();
      return;
    }
  });
  for (const [key, measure] of Object.entries(data.measures)) $("measure").add(new Option(measure.title, key));
  $("measure").addEventListener("change", drawMatrix);

  function drawMatrix() {
    const measure = data.measures[$("measure").value];
    const values = measure.values.filter((value) => value !== null);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    const both = measure.signed && low < 0;
    if (both) { high = Math.max(high, -low); low = -high; }
    const scale = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    const stops = both ? BOTH : BLUES;
    buttons.forEach((button, head) => {
      const value = measure.values[head];
      const colour = value === null ? [128, 128, 128] : mix(stops, scale(value));
      button.style.background = css(colour);
      button.style.color = ink(colour);
      button.textContent = short(value);
      button.setAttribute("aria-label", `${name(head)}: ${measure.title} ${short(value)}`);
      button.setAttribute("aria-pressed", String(head === state.head));
      button.tabIndex = head === state.head ? 0 : -1;
      button.classList.toggle("linked", state.linked.has(head));
    });
    $("measure-note").textContent = measure.note;
    $("scale-low").textContent = short(low);
    $("scale-high").textContent = short(high);
    $("scale-bar").style.background = `linear-gradient(to right, ${stops.map(css).join(",")})`;
  }

  // One head
  function drawHead() {
    const head = state.head;
    $("head-title").textContent = `${name(head)} · ${data.layers[Math.floor(head / H)]}`;
    $("head-kind").textContent = `Reach: ${data.kinds[head]}, group ${data.groups[head] + 1} of ${data.groupCount} from near to far. Place by importance ${data.order.indexOf(head) + 1} of ${data.order.length}.`;
    const [height, width] = data.offsetShape;
    paint($("offsets"), offsets, width, height, head * width * height);
    $("offsets").style.aspectRatio = `${width} / ${height}`;
    drawRings();
    const box = $("head-clusters");
    box.replaceChildren();
    data.shares[head].forEach((share, k) => {
      if (share < 0.005) return;
      const row = document.createElement("div");
      row.className = "bar";
      const label = document.createElement("span");
      label.textContent = data.clusters[k].name;
      const bar = document.createElement("i");
      bar.style.width = `${100 * share}%`;
      bar.style.background = COLOURS[k % COLOURS.length];
      const number = document.createElement("b");
      number.textContent = `${Math.round(100 * share)} %`;
      const track = document.createElement("span");
      track.append(bar);
      row.append(label, track, number);
      box.append(row);
    });
    const list = $("head-numbers");
    list.replaceChildren();
    for (const measure of Object.values(data.measures)) {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = measure.title;
      value.textContent = short(measure.values[head]);
      list.append(term, value);
    }
  }
  function drawRings() {
    const values = data[$("ring-kind").value][state.head];
    const box = $("rings");
    const [width, height, left, bottom] = [260, 200, 34, 18];
    box.replaceChildren();
    box.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const high = Math.max(...values.filter((value) => value !== null), 1e-9);
    const step = (width - left) / values.length;
    values.forEach((value, k) => {
      const tall = ((height - bottom - 12) * (value ?? 0)) / high;
      const bar = svg("rect", { x: left + k * step + 1, y: height - bottom - tall, width: Math.max(1, step - 2), height: tall, fill: css(mix(BLUES, 0.65)) }, box);
      titled(bar, `${k} patches away: ${short(value)}`);
      if (values.length <= 16 || k % 4 === 0) text(box, left + (k + 0.5) * step, height - 5, k, { "text-anchor": "middle" });
    });
    text(box, left - 4, 20, short(high), { "text-anchor": "end" });
    text(box, left - 4, height - bottom, "0", { "text-anchor": "end" });
    svg("line", { x1: left, x2: width, y1: height - bottom, y2: height - bottom, class: "axis" }, box);
  }
  $("ring-kind").addEventListener("change", drawRings);

  // Reach of all heads
  const ringColour = (k) => css(mix(BLUES, 1 - k / Math.max(1, data.strength[data.top].length - 1)));
  const frames = [];
  function buildProfiles() {
    const box = $("profiles");
    const [wide, gap, height, foot] = [18, 14, 190, 20];
    const bar = Math.min(9, Math.max(3, Math.floor((1050 - L * (wide + gap + 3)) / data.order.length) - 1));
    let x = 4;
    const stack = (values, width) => {
      let y = height;
      const drawn = values.map((value, k) => {
        const tall = height * value;
        y -= tall;
        return svg("rect", { x, y, width, height: tall, fill: ringColour(k) }, box);
      });
      x += width;
      return drawn;
    };
    for (let l = 0; l < L; l += 1) {
      const heads = [...Array(H).keys()].map((h) => l * H + h).filter(there);
      const mean = data.strength[heads[0]].map((_, k) => heads.reduce((sum, head) => sum + data.strength[head][k], 0) / heads.length);
      text(box, x, height + 14, `L${l}`);
      stack(mean, wide).forEach((rect, k) => titled(rect, `Layer ${l}, mean of its heads, ${k} patches away: ${Math.round(100 * mean[k])} %`));
      x += 3;
      for (const head of heads) {
        const start = x;
        stack(data.strength[head], bar).forEach((rect, k) => {
          rect.classList.add("head");
          rect.addEventListener("click", () => choose(head));
          titled(rect, `${name(head)}, ${k} patches away: ${Math.round(100 * data.strength[head][k])} %`);
        });
        frames[head] = svg("rect", { x: start, y: 0, width: bar, height, class: "frame", "pointer-events": "none" }, box);
        x += 1;
      }
      x += gap;
    }
    box.setAttribute("viewBox", `0 -3 ${x} ${height + foot + 3}`);
    box.style.width = `${x * Math.max(1, Math.min(1.25, 1100 / x))}px`;
    box.style.display = "block";
    data.strength[data.top].forEach((_, k) => {
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = ringColour(k);
      item.append(swatch, k === 0 ? "itself" : `${k}`);
      $("profile-legend").append(item);
    });
  }

  // Patterns
  const points = data.points;
  let placed = [];
  function drawScatter() {
    const canvas = $("scatter");
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    const context = sized(canvas, width, height);
    const range = (values) => [Math.min(...values), Math.max(...values)];
    const [[x0, x1], [y0, y1]] = [range(points.x), range(points.y)];
    const pad = 14;
    placed = points.x.map((x, k) => [
      pad + ((x - x0) / (x1 - x0 || 1)) * (width - 2 * pad),
      height - pad - ((points.y[k] - y0) / (y1 - y0 || 1)) * (height - 2 * pad),
    ]);
    const any = state.polygon.length > 2 || state.cluster !== null;
    const inside = placed.map((place, k) => !any || (state.cluster !== null ? points.cluster[k] === state.cluster : within([place[0] / width, place[1] / height], state.polygon)));
    for (const front of [false, true]) {
      placed.forEach(([x, y], k) => {
        const own = points.head[k] === state.head;
        if (own !== front) return;
        context.globalAlpha = inside[k] ? (own ? 1 : 0.55) : 0.1;
        context.fillStyle = COLOURS[points.cluster[k] % COLOURS.length];
        context.beginPath();
        context.arc(x, y, own ? 5 : 3, 0, 2 * Math.PI);
        context.fill();
        if (own) {
          context.strokeStyle = getComputedStyle(document.body).color;
          context.lineWidth = 1.5;
          context.stroke();
        }
      });
    }
    context.globalAlpha = 1;
    if (state.polygon.length > 1) {
      context.beginPath();
      state.polygon.forEach(([x, y], k) => (k ? context.lineTo(x * width, y * height) : context.moveTo(x * width, y * height)));
      context.closePath();
      context.strokeStyle = getComputedStyle(document.body).color;
      context.setLineDash([5, 4]);
      context.stroke();
      context.setLineDash([]);
    }
    link(inside, any);
  }
  const within = ([x, y], polygon) => {
    let odd = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
      const [[a, b], [c, d]] = [polygon[i], polygon[j]];
      if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) odd = !odd;
    }
    return odd;
  };
  function link(inside, any) {
    const counts = new Map();
    if (any) points.head.forEach((head, k) => { if (inside[k]) counts.set(head, (counts.get(head) || 0) + 1); });
    const same = counts.size === state.linked.size && [...counts].every(([head, count]) => state.linked.get(head) === count);
    if (same) return;
    state.linked = counts;
    const listed = [...counts].sort((a, b) => b[1] - a[1]);
    const total = listed.reduce((sum, [, count]) => sum + count, 0);
    const words = listed.slice(0, 12).map(([head, count]) => `${name(head)} (${count})`).join(", ");
    const more = listed.length > 12 ? ` and ${listed.length - 12} more` : "";
    $("picked").textContent = total ? `${total} points of ${listed.length} heads: ${words}${more}` : any ? "no points inside" : "";
    $("linked").textContent = total ? `Ringed: ${listed.length} heads with patterns in the selection below.` : "";
    drawMatrix();
    frames.forEach((frame, head) => frame.classList.toggle("linked", counts.has(head)));
  }
  const scatter = $("scatter");
  const at = (event) => { // shares of the canvas, so that a line stays around its points when the page is resized
    const box = scatter.getBoundingClientRect();
    return [(event.clientX - box.left) / scatter.clientWidth, (event.clientY - box.top) / scatter.clientHeight];
  };
  let drawing = false;
  scatter.addEventListener("pointerdown", (event) => {
    drawing = true;
    scatter.setPointerCapture(event.pointerId);
    pickCluster(null);
    state.polygon = [at(event)];
  });
  scatter.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    state.polygon.push(at(event));
    drawScatter();
  });
  scatter.addEventListener("pointerup", (event) => {
    drawing = false;
    if (state.polygon.length < 4) {
      const [x, y] = at(event);
      let [best, nearest] = [15, -1];
      placed.forEach(([a, b], k) => {
        const away = Math.hypot(a - x * scatter.clientWidth, b - y * scatter.clientHeight);
        if (away < best) [best, nearest] = [away, k];
      });
      state.polygon = [];
      if (nearest >= 0) choose(points.head[nearest]);
    }
    drawScatter();
  });
  function pickCluster(k) {
    state.cluster = k;
    document.querySelectorAll("#clusters button").forEach((button, number) => button.setAttribute("aria-pressed", String(number === k)));
  }
  $("clear").addEventListener("click", () => {
    pickCluster(null);
    state.polygon = [];
    drawScatter();
  });
  data.clusters.forEach((cluster, k) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const [height, width] = data.patternShape;
    for (const kind of ["prototype", "medoid"]) {
      const canvas = document.createElement("canvas");
      canvas.title = kind === "prototype" ? "what the middle of the cluster decodes to" : `nearest to the middle: ${cluster.medoidOf}`;
      paint(canvas, bytes(cluster[kind]), width, height);
      button.append(canvas);
    }
    const words = document.createElement("span");
    const title = document.createElement("em");
    const swatch = document.createElement("i");
    swatch.style.background = COLOURS[k % COLOURS.length];
    title.append(swatch, cluster.name);
    const note = document.createElement("span");
    note.className = "small soft";
    note.textContent = `${Math.round(100 * cluster.share)} % of patterns; main pattern of ${cluster.heads} head${cluster.heads === 1 ? "" : "s"}`;
    words.append(title, note);
    button.append(words);
    button.addEventListener("click", () => {
      pickCluster(state.cluster === k ? null : k);
      state.polygon = [];
      drawScatter();
    });
    item.append(button);
    $("clusters").append(item);
  });

  // One image
  const pictures = [];
  function drawOverlay() {
    if (!data.overlays) return;
    const [chosen, view] = [Number($("image").value), Number($("view").value)];
    const picture = pictures[chosen];
    if (!picture.complete) return;
    const [rows, columns] = data.overlays.grid;
    const n = rows * columns;
    const start = (((chosen * L * H) + state.head) * data.overlays.views.length + view) * n;
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    const cells = new ImageData(columns, rows);
    for (let k = 0; k < n; k += 1) {
      const value = maps[start + k] / 255;
      cells.data.set([...mix(HEAT, value), Math.round(255 * Math.sqrt(value) * ($("opacity").value / 100))], 4 * k);
    }
    small.getContext("2d").putImageData(cells, 0, 0);
    const scale = Math.max(1, Math.round(480 / picture.naturalWidth));
    for (const id of ["plain", "overlay"]) {
      const canvas = $(id);
      canvas.width = picture.naturalWidth * scale;
      canvas.height = picture.naturalHeight * scale;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      if (id === "overlay") {
        context.imageSmoothingEnabled = $("smooth").checked;
        context.drawImage(small, 0, 0, canvas.width, canvas.height);
      }
    }
    $("overlay-caption").textContent = [name(state.head), `attention ${data.overlays.views[view]}`, data.overlays.images[chosen].told].filter(Boolean).join(", ") + "; violet little, yellow most";
  }
  if (data.overlays) {
    data.overlays.images.forEach((image, k) => {
      $("image").add(new Option(image.name, k));
      const picture = new Image();
      picture.addEventListener("load", drawOverlay);
      picture.src = image.src;
      pictures.push(picture);
    });
    data.overlays.views.forEach((view, k) => $("view").add(new Option(view, k)));
    for (const id of ["image", "view", "opacity", "smooth"]) $(id).addEventListener("input", drawOverlay);
  }

  // Heads taken out
  function buildCurves() {
    const box = $("curves");
    const [width, height, left, bottom] = [520, 260, 44, 34];
    box.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const last = data.order.length;
    const x = (count) => left + (count / last) * (width - left - 12);
    const y = (value) => 10 + (1 - value) * (height - bottom - 10);
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
      svg("line", { x1: left, x2: width - 12, y1: y(tick), y2: y(tick), class: "axis" }, box);
      text(box, left - 6, y(tick) + 4, `${100 * tick} %`, { "text-anchor": "end" });
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) text(box, x(share * last), height - bottom + 16, Math.round(share * last), { "text-anchor": "middle" });
    text(box, (left + width) / 2, height - 4, "heads taken out", { "text-anchor": "middle" });
    Object.entries(data.curves).forEach(([key, curve], k) => {
      const dash = ["", "6 4", "2 3"][k];
      const line = curve.map(([count, value], i) => `${i ? "L" : "M"}${x(count).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      svg("path", { d: line, fill: "none", stroke: COLOURS[[0, 8, 4][k]], "stroke-width": 2.5, "stroke-dasharray": dash }, box);
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = COLOURS[[0, 8, 4][k]];
      item.append(swatch, key);
      $("curve-legend").append(item);
    });
  }

  function choose(head) {
    state.head = head;
    drawMatrix();
    drawHead();
    frames.forEach((frame, number) => frame.classList.toggle("on", number === head));
    drawScatter();
    drawOverlay();
  }
  document.querySelectorAll("button[data-head].link").forEach((button) => button.addEventListener("click", () => {
    choose(Number(button.dataset.head));
    $("heads-heading").scrollIntoView({ behavior: "smooth" });
  }));
  buildProfiles();
  buildCurves();
  choose(data.top);
  addEventListener("resize", drawScatter);
})();
