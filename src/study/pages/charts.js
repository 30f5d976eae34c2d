"use strict";
// What report.html and `minke watch` draw with. A run is {name, color, start, steps, evals, routers, modules, memory, samples, spikes}:
// events of metrics.jsonl, see docs/METRICS.md. Figures have keys: what is drawn again under its key is redrawn in place.

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "circle", "image", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const last = list => list[list.length - 1];
const short = x => {
  const a = Math.abs(x);
  if (a >= 1e9) return +(x / 1e9).toPrecision(3) + "B";
  if (a >= 1e6) return +(x / 1e6).toPrecision(3) + "M";
  if (a >= 1e4) return +(x / 1e3).toPrecision(3) + "K";
  if (a >= 100) return x.toFixed(0);
  return a === 0 ? "0" : a < 0.001 ? x.toExponential(1) : String(+x.toPrecision(4));
};
const bytes = x => x >= 1e9 ? (x / 1e9).toPrecision(3) + " GB" : x >= 1e6 ? (x / 1e6).toPrecision(3) + " MB" : (x / 1e3).toPrecision(3) + " kB";
const duration = s => s < 60 ? s.toFixed(0) + "s" : s < 3600 ? `${Math.floor(s / 60)}m ${String(Math.floor(s % 60)).padStart(2, "0")}s` : s < 86400 ? `${Math.floor(s / 3600)}h ${String(Math.floor(s % 3600 / 60)).padStart(2, "0")}m` : `${Math.floor(s / 86400)}d ${String(Math.floor(s % 86400 / 3600)).padStart(2, "0")}h`;

function ticks(low, high, n) {
  const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) out.push(i * step);
  return out;
}
function logTicks(low, high) {
  const decades = Math.log10(high / low), out = [];
  const of = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high) + 1; ++e) for (const m of of) out.push(m * 10 ** e);
  return out.filter(t => t >= low * 0.999 && t <= high * 1.001);
}

const figures = new Map();
// The figure of this key, with what it remembers; made at the first call.
function figure(key) {
  if (!figures.has(key)) {
    const caption = make("figcaption"), svg = make("svg", {role: "img"}), tip = make("div", {class: "tip"}), legend = make("div", {class: "legend"});
    const f = {node: make("figure", {"data-key": key}, caption, svg, tip, legend), caption, svg, tip, legend, hidden: new Set(), pointer: null, hover: () => {}, redraw: () => {}};
    svg.addEventListener("pointermove", e => { f.pointer = e; f.hover(); });
    svg.addEventListener("pointerleave", () => { f.pointer = null; f.hover(); });
    figures.set(key, f);
  }
  return figures.get(key);
}
function caption(f, title, unit) {
  f.svg.setAttribute("aria-label", title);
  f.caption.replaceChildren(title + " ", make("small", {}, unit));
}
// Shows lines [{color, text}] beside the pointer, or nothing.
function showTip(f, lines) {
  f.tip.style.display = lines ? "block" : "none";
  if (!lines) return;
  f.tip.replaceChildren(...lines.map(l => make("div", {}, ...(l.color ? [make("i", {style: `background:${l.color}`})] : []), l.text)));
  const box = f.svg.getBoundingClientRect(), outer = f.node.getBoundingClientRect();
  const x = f.pointer.clientX - outer.left, left = f.pointer.clientX < box.left + box.width / 2 ? x + 16 : x - 16 - f.tip.offsetWidth;
  f.tip.style.left = Math.max(4, Math.min(left, outer.width - f.tip.offsetWidth - 4)) + "px";
  f.tip.style.top = Math.max(4, Math.min(f.pointer.clientY - outer.top - 20, outer.height - f.tip.offsetHeight - 4)) + "px";
}
const W = 480, H = 256, LEFT = 50, RIGHT = 22, TOP = 10, BOTTOM = 38;
function xAxis(svg, x0, x1, name, at) {
  for (const t of ticks(x0, x1, 6)) svg.append(make("line", {class: "axis", x1: at(t), x2: at(t), y1: H - BOTTOM, y2: H - BOTTOM + 4}), make("text", {x: at(t), y: H - BOTTOM + 17, "text-anchor": "middle"}, short(t)));
  svg.append(make("text", {x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle"}, name));
}
function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (points[middle][0] < x) low = middle; else high = middle; }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
}
// A mean that forgets; `by` 0 leaves the points as they are.
function smoothed(points, by) {
  let mean = 0, weight = 0;
  return points.map(([x, y]) => { mean = by * mean + (1 - by) * y; weight = by * weight + (1 - by); return [x, mean / weight]; });
}

// Curves [{name, color, points: [[x, y], ...], dots, thin, dash, band: [[x, low, high], ...]}] with axes, legend (a click hides a
// curve) and values under the pointer. log: the y axis; low, high: its ends; stacked: areas, one on the other; lines: [{name, y}];
// marks: [{x, name, color}], lines across; each: the pointer tells one curve, the nearest; ghosts: curves drawn faint behind.
function chart(key, title, unit, xName, curves, {low, high, log = false, stacked = false, lines = [], marks: events = [], each = false, ghosts = []} = {}) {
  const f = figure(key), svg = f.svg;
  caption(f, title, unit);
  f.redraw = () => chart(key, title, unit, xName, curves, {low, high, log, stacked, lines, marks: events, each, ghosts});
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.replaceChildren();
  const good = p => Number.isFinite(p[0]) && Number.isFinite(p[1]) && (!log || p[1] > 0);
  const clean = list => list.map(c => ({...c, points: c.points.filter(good)})).filter(c => c.points.length);
  const all = clean(curves), shown = all.filter(c => !f.hidden.has(c.name)), behind = clean(ghosts).filter(c => !f.hidden.has(c.name));
  if (stacked) {
    const sum = new Map();
    for (const c of shown) c.points = c.points.map(([x, y]) => { const to = (sum.get(x) || 0) + y; sum.set(x, to); return [x, to, y]; });
  }
  const points = shown.concat(behind).flatMap(c => c.points), ys = points.map(p => p[1]).concat(shown.length ? lines.map(l => l.y) : []);
  f.legend.replaceChildren(...all.filter(c => c.name && !each).map(c => {
    const button = make("button", {type: "button", class: f.hidden.has(c.name) ? "hidden" : ""}, make("i", {style: `background:${c.color}`}), c.name);
    button.addEventListener("click", () => { if (!f.hidden.delete(c.name)) f.hidden.add(c.name); f.redraw(); });
    return button;
  }));
  f.hover = () => showTip(f, null);
  if (!points.length) {
    svg.append(make("text", {x: W / 2, y: H / 2, "text-anchor": "middle"}, all.length ? "all hidden" : "nothing yet"));
    return f.node;
  }
  const extent = list => list.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
  let [x0, x1] = extent(points.map(p => p[0])), [y0, y1] = extent(ys);
  if (x0 > 0 && x0 < 0.05 * x1) x0 = 0;
  if (x1 === x0) x1 = x0 + 1;
  const scale = log ? Math.log10 : y => y, edge = ((scale(y1) - scale(y0)) || Math.abs(scale(y1)) || 1) * 0.04;
  y0 = low ?? (stacked ? 0 : log ? 10 ** (scale(y0) - edge) : y0 - edge);
  y1 = high ?? (log ? 10 ** (scale(y1) + edge) : y1 + edge);
  // A step that waited for another program's would leave the others no height.
  if (stacked && high === undefined) y1 = 1.3 * last(shown).points.map(p => p[1]).sort((a, b) => a - b)[Math.floor(0.98 * (last(shown).points.length - 1))] || 1;
  const X = x => LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT);
  const Y = y => H - BOTTOM - (scale(Math.min(Math.max(y, y0), y1)) - scale(y0)) / (scale(y1) - scale(y0)) * (H - TOP - BOTTOM);
  for (const t of log ? logTicks(y0, y1) : ticks(y0, y1, 5)) svg.append(make("line", {class: "axis", x1: LEFT, x2: W - RIGHT, y1: Y(t), y2: Y(t)}), make("text", {x: LEFT - 6, y: Y(t) + 4, "text-anchor": "end"}, short(t)));
  xAxis(svg, x0, x1, xName, X);
  for (const l of lines) svg.append(make("line", {x1: LEFT, x2: W - RIGHT, y1: Y(l.y), y2: Y(l.y), stroke: "var(--soft)", "stroke-dasharray": "4 4"}), make("text", {x: W - RIGHT, y: Y(l.y) - 4, "text-anchor": "end"}, l.name));
  for (const m of events.filter(m => m.x >= x0 && m.x <= x1)) svg.append(make("line", {x1: X(m.x), x2: X(m.x), y1: TOP, y2: H - BOTTOM, stroke: m.color, "stroke-dasharray": "2 3"}, make("title", {}, m.name)));
  const path = list => "M" + list.map(p => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join("L");
  const pen = (c, more) => make("path", {d: path(c.points), fill: "none", stroke: c.color, "stroke-linejoin": "round", "stroke-width": c.thin ? 0.8 : 1.7, opacity: c.thin ? 0.65 : 1, ...(c.dash ? {"stroke-dasharray": "5 4"} : {}), ...more});
  for (const c of behind) svg.append(pen(c, {"stroke-width": 0.8, opacity: 0.35}));
  for (const c of shown) if (c.band?.length) svg.append(make("path", {d: path(c.band.map(([x, a]) => [x, a]).concat(c.band.map(([x, , b]) => [x, b]).reverse())) + "Z", fill: c.color, opacity: 0.16}));
  const drawn = shown.map((c, i) => {
    if (stacked) {
      const base = i ? shown[i - 1].points : [[last(c.points)[0], y0], [c.points[0][0], y0]].reverse();
      return make("path", {d: path(c.points.concat([...base].reverse())) + "Z", fill: c.color, opacity: 0.75});
    }
    return pen(c);
  });
  svg.append(...drawn);
  for (const c of shown) if (c.dots) for (const p of c.points) svg.append(make("circle", {cx: X(p[0]), cy: Y(p[1]), r: 2.8, fill: c.color}));
  const cursor = make("line", {y1: TOP, y2: H - BOTTOM, stroke: "var(--soft)", visibility: "hidden"}), marks = shown.map(c => make("circle", {r: 3.4, fill: c.color, stroke: "var(--paper)", visibility: "hidden"}));
  svg.append(cursor, ...marks);
  f.hover = () => {
    for (const node of [cursor, ...marks]) node.setAttribute("visibility", "hidden");
    if (each) drawn.forEach(d => d.setAttribute("stroke-width", 0.8));
    if (!f.pointer || !shown.length) return showTip(f, null);
    const box = svg.getBoundingClientRect(), px = (f.pointer.clientX - box.left) / box.width * W, py = (f.pointer.clientY - box.top) / box.height * H;
    const x = x0 + (px - LEFT) / (W - LEFT - RIGHT) * (x1 - x0);
    let at = shown.map(c => nearest(c.points, x)), told = shown.map((_, i) => i);
    const cx = at.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)[0];
    if (each) {
      told = [told.reduce((a, b) => Math.abs(Y(at[b][1]) - py) < Math.abs(Y(at[a][1]) - py) ? b : a)];
      drawn[told[0]].setAttribute("stroke-width", 2.4);
    }
    cursor.setAttribute("x1", X(cx)); cursor.setAttribute("x2", X(cx)); cursor.setAttribute("visibility", "visible");
    for (const i of told) { marks[i].setAttribute("cx", X(at[i][0])); marks[i].setAttribute("cy", Y(at[i][1])); marks[i].setAttribute("visibility", "visible"); }
    if (stacked) told.reverse();
    const value = i => short(at[i][2] ?? at[i][1]);
    showTip(f, [{text: `${xName} ${short(cx)}`}, ...told.map(i => ({color: shown[i].color, text: `${shown[i].name || title}: ${value(i)}`}))]);
  };
  f.hover();
  return f.node;
}

function rgb(name) {
  const [, r, g, b] = getComputedStyle(document.documentElement).getPropertyValue(name).trim().match(/^#(..)(..)(..)$/);
  return [r, g, b].map(h => parseInt(h, 16));
}
// Experts (rows) over time (columns): an even share is pale, less and more of it are the two colours, none at all a third.
function heat(key, title, rows) {
  const f = figure(key), svg = f.svg, E = rows[0].counts.length, n = rows.length;
  caption(f, title, "tokens of an expert over the mean");
  f.redraw = () => heat(key, title, rows);
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.replaceChildren();
  const canvas = make("canvas", {width: n, height: E}), context = canvas.getContext("2d"), image = context.createImageData(n, E);
  const [less, even, more, dead] = ["--less", "--even", "--more", "--dead"].map(rgb);
  const means = rows.map(row => row.counts.reduce((a, b) => a + b, 0) / E || 1);
  rows.forEach((row, x) => row.counts.forEach((count, e) => {
    const t = Math.max(-1, Math.min(1, Math.log2(count / means[x]))), to = t < 0 ? less : more, at = 4 * (e * n + x);
    for (let c = 0; c < 3; ++c) image.data[at + c] = count === 0 ? dead[c] : even[c] + (to[c] - even[c]) * Math.abs(t);
    image.data[at + 3] = 255;
  }));
  context.putImageData(image, 0, 0);
  const width = W - LEFT - RIGHT, height = H - TOP - BOTTOM, x0 = rows[0].step, x1 = Math.max(last(rows).step, x0 + 1);
  svg.append(make("image", {x: LEFT, y: TOP, width, height, preserveAspectRatio: "none", href: canvas.toDataURL()}));
  xAxis(svg, x0, x1, "step", t => LEFT + (t - x0) / (x1 - x0) * width);
  for (const e of ticks(0, E - 1, Math.min(E - 1, 6)).filter(Number.isInteger)) svg.append(make("text", {x: LEFT - 6, y: TOP + (e + 0.5) / E * height + 4, "text-anchor": "end"}, e));
  svg.append(make("text", {transform: `translate(12 ${TOP + height / 2}) rotate(-90)`, "text-anchor": "middle"}, "expert"));
  f.legend.replaceChildren("½", make("i", {class: "scale"}), "2× an even share", ...(rows.some(r => r.counts.includes(0)) ? [" ", make("i", {style: "background:var(--dead);height:9px;margin-left:12px"}), "none"] : []));
  f.hover = () => {
    if (!f.pointer) return showTip(f, null);
    const box = svg.getBoundingClientRect(), px = ((f.pointer.clientX - box.left) / box.width * W - LEFT) / width, py = ((f.pointer.clientY - box.top) / box.height * H - TOP) / height;
    if (px < 0 || px >= 1 || py < 0 || py >= 1) return showTip(f, null);
    const x = Math.floor(px * n), e = Math.floor(py * E), row = rows[x];
    showTip(f, [{text: `step ${row.step}, expert ${e}`}, {text: `${Math.round(row.counts[e])} tokens, ${(row.counts[e] / means[x]).toFixed(2)} of the mean`}, ...(row.bias.length ? [{text: `bias ${row.bias[e].toFixed(4)}`}] : [])]);
  };
  f.hover();
  return f.node;
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const f of figures.values()) f.redraw(); });

// [{name, text, value, own}] as bars beside their numbers.
function bars(rows) {
  const most = Math.max(...rows.map(r => r.value)), table = make("table");
  for (const r of rows) table.append(make("tr", {}, make("td", {}, r.name), make("td", {class: "n"}, r.text), make("td", {style: "width:55%"}, make("div", {class: "bar" + (r.own ? "" : " other"), style: `width:${100 * r.value / most}%`}))));
  return table;
}
// A titled part of the page; drawn again, its content is replaced. Nothing stays of one without content.
function section(root, key, title, note, ...content) {
  let node = [...root.children].find(c => c.dataset.section === key);
  if (!node) root.append(node = make("section", {"data-section": key}));
  node.hidden = !content.length;
  const head = [make("h2", {}, title)];
  if (note) head.push(make("p", {class: "note"}, note));
  const kept = [...node.children].slice(head.length);
  if (kept.length === content.length && kept.every((c, i) => c === content[i])) return;
  node.replaceChildren(...head, ...content);
}
const rows = new Map();
// Figures side by side.
function row(key, ...nodes) {
  if (!rows.has(key)) rows.set(key, make("div", {class: "row"}));
  const node = rows.get(key);
  if (node.children.length !== nodes.length || nodes.some((n, i) => node.children[i] !== n)) node.replaceChildren(...nodes);
  return node;
}

// What x means: events of an evaluation know their step alone, so the rest is read off the steps.
function axisOf(kind, runs) {
  if (kind === "step") return {name: "step", of: (run, event) => event.step};
  const field = kind === "time" ? "seconds" : "tokens", most = Math.max(...runs.map(r => last(r.steps)?.[field] ?? 0));
  const [unit, by] = kind === "tokens" ? ["tokens", 1] : most > 7200 ? ["hours", 3600] : most > 180 ? ["minutes", 60] : ["seconds", 1];
  return {name: unit, of: (run, event) => {
    if (event.event === "step") return event[field] / by;
    const i = run.steps.findIndex(s => s.step >= event.step);
    if (i < 0) return (last(run.steps)?.[field] ?? 0) / by;
    const a = i ? run.steps[i - 1] : {step: 0, [field]: 0}, b = run.steps[i];
    return (a[field] + (b[field] - a[field]) * (event.step - a.step) / Math.max(1, b.step - a.step)) / by;
  }};
}

const PALETTE = Array.from({length: 8}, (_, i) => `var(--c${i})`);
const color = i => PALETTE[i % PALETTE.length];
// The curve of a field of each run's steps, smoothed, with the field itself behind.
function overlay(key, title, unit, view, field, options = {}) {
  const {runs, axis, smooth} = view, raw = runs.map(r => ({name: r.name, color: r.color, points: r.steps.map(s => [axis.of(r, s), field(s)])}));
  return chart(key, title, unit, axis.name, raw.map(c => ({...c, points: smoothed(c.points, smooth)})), {...options, ghosts: smooth > 0 ? raw : []});
}
function drawLearning(root, view, compressors = []) {
  const {runs, axis, smooth} = view, depths = Math.max(0, ...runs.map(r => r.steps[0]?.mtp_loss.length ?? 0)), alone = runs.length === 1;
  const curve = (r, name, of, more) => ({name, color: r.color, points: r.steps.map(s => [axis.of(r, s), of(s)]), ...more});
  const mtp = (r, k) => curve(r, alone ? `MTP depth ${k + 1}` : r.name, s => s.mtp_loss[k], alone ? {color: color(k + 1)} : {});
  const loss = runs.map(r => ({...curve(r, alone ? "next token" : r.name, s => s.loss), band: r.steps.filter(s => s.loss_range).map(s => [axis.of(r, s), ...s.loss_range])}));
  const spikes = runs.flatMap(r => r.spikes.map(e => ({x: axis.of(r, {...e, step: e.at}), color: "var(--c4)", name: `${r.name}, step ${e.at}: a spike, ${e.action}`})));
  const charts = [], add = (key, title, curves) => charts.push(chart(key, title, "nats a token", axis.name, curves.map(c => ({...c, points: smoothed(c.points, smooth)})), {marks: spikes, ghosts: smooth > 0 ? curves : []}));
  add("loss", "Training loss", alone ? loss.concat(Array.from({length: depths}, (_, k) => mtp(runs[0], k))) : loss);
  charts.push(chart("held-out", "Held-out text", "bits a byte", axis.name, runs.flatMap(r => {
    const curve = (name, events, of, more) => ({name, color: r.color, dots: true, points: events.map(e => [axis.of(r, e), of(e)]), ...more});
    const looks = r.evals.filter(e => !e.whole), whole = r.evals.filter(e => e.whole), averaged = looks.filter(e => e.ema);
    const of = [curve(r.name, looks, e => e.bits_per_byte), curve(r.name + ", all of the text", whole, e => e.bits_per_byte, {color: alone ? color(2) : r.color}), curve(r.name + ", averaged weights", averaged, e => e.ema.bits_per_byte, {dash: true})];
    return of.filter(c => c.points.length);
  }), {lines: compressors.map(c => ({name: c.name, y: c.bits_per_byte}))}));
  if (!alone) for (let k = 0; k < depths; ++k) add(`mtp${k}`, `Training loss of MTP depth ${k + 1}`, runs.filter(r => k < (r.steps[0]?.mtp_loss.length ?? 0)).map(r => mtp(r, k)));
  section(root, "learning", "What it learns", "Cross-entropy in nats a token; multi-token prediction (MTP) depth 1 predicts the token after the next. Bits a byte do not depend on the tokenizer.", row("learning", ...charts));
}
function drawCourse(root, view) {
  const {runs, axis} = view;
  section(root, "course", "How it goes", "", row("course",
    overlay("gradient", "Norm of the gradient", "before clipping", view, s => s.gradient_norm, {log: true}),
    overlay("clip", "Clipped steps", "share of all so far", view, s => s.clip_rate, {low: 0, high: 1}),
    overlay("rate", "Learning rate", "", {...view, smooth: 0}, s => s.learning_rate, {low: 0}),
    overlay("speed", "Throughput", "tokens a second", view, s => s.tokens_per_second, {low: 0}),
    overlay("mfu", "MFU", "% of the processor's measured peak", view, s => 100 * s.mfu, {low: 0}),
    overlay("max-vio", "Balance of a step", "MaxVio of the worst layer", view, s => s.max_vio, {low: 0}),
    chart("eval-max-vio", "Balance on held-out text", "MaxVio of the worst layer", axis.name, runs.map(r => ({name: r.name, color: r.color, dots: true, points: r.evals.filter(e => "max_vio" in e).map(e => [axis.of(r, e), e.max_vio])})), {low: 0}),
    overlay("dead", "Dead experts", "without a token in a step, all layers", view, s => s.dead_experts, {low: 0})));
}
const LAYERS_AT_ONCE = 6;
function layersOf(run) {
  const layers = new Map();
  for (const event of run.routers) for (const layer of event.layers) {
    if (!layers.has(layer.layer)) layers.set(layer.layer, []);
    layers.get(layer.layer).push({step: event.step, ...layer});
  }
  return layers;
}
let firstLayer = 0;
function drawRouters(root, run) {
  const all = [...layersOf(run)], redraw = () => drawRouters(root, run), pager = [];
  firstLayer = Math.min(firstLayer, Math.floor(Math.max(0, all.length - 1) / LAYERS_AT_ONCE) * LAYERS_AT_ONCE);
  const shown = all.slice(firstLayer, firstLayer + LAYERS_AT_ONCE);
  if (all.length > LAYERS_AT_ONCE) {
    const turn = (text, by) => {
      const button = make("button", {type: "button"}, text);
      button.disabled = firstLayer + by < 0 || firstLayer + by >= all.length;
      button.addEventListener("click", () => { firstLayer += by; redraw(); });
      return button;
    };
    pager.push(make("p", {class: "note"}, turn("‹", -LAYERS_AT_ONCE), ` layers ${shown[0][0]} to ${last(shown)[0]} `, turn("›", LAYERS_AT_ONCE)));
  }
  section(root, "load", "Where tokens go", "The share of tokens that each expert gets. No auxiliary loss pushes tokens around: a bias an expert, moved by a constant step, does.", ...(shown.length ? [...pager, row("load", ...shown.map(([layer, events]) => heat(`load ${layer}`, `Layer ${layer}: load`, events)))] : []));
  const paths = shown.filter(([, events]) => events[0].bias.length).map(([layer, events]) => chart(`bias ${layer}`, `Layer ${layer}: bias`, "of each expert", "step",
    events[0].bias.map((_, e) => ({name: `expert ${e}`, color: `hsl(${360 * e / events[0].bias.length} 65% 52%)`, thin: true, points: events.map(r => [r.step, r.bias[e]])})), {each: true}));
  section(root, "bias", "The routers' bias", "It moves by gamma a step, up for experts with fewer tokens than the mean and down for the others; it decides who is chosen and never what weight they get.", ...(paths.length ? [row("bias", ...paths)] : []));
}
function drawModules(root, run) {
  const names = [...new Set(run.modules.flatMap(e => e.modules.map(m => m.module)))];
  const whole = (event, name, field) => Math.sqrt(event.modules.filter(m => m.module === name).reduce((a, m) => a + m[field] ** 2, 0));
  const curves = of => names.map((name, i) => ({name, color: color(i), dash: i >= PALETTE.length, points: run.modules.map(e => [e.step, of(e, name)])}));
  const phases = ["data", "forward", "loss", "backward", "update"], memory = last(run.memory), charts = [];
  if (run.modules.length) {
    charts.push(chart("module-gradients", "Gradients by module", "norm over all layers, before clipping", "step", curves((e, n) => whole(e, n, "gradient")), {log: true}),
      chart("module-updates", "Updates by module", "norm of a step's change over norm of the weights", "step", curves((e, n) => whole(e, n, "update") / whole(e, n, "weight")), {log: true}));
  }
  if (run.steps[0]?.time) charts.push(chart("phases", "Time of a step", "ms, by phase", "step", phases.map((p, i) => ({name: p, color: color(i), points: run.steps.map(s => [s.step, 1e3 * s.time[p]])})), {stacked: true}));
  if (memory) {
    const f = figure("memory"), kinds = ["weights", "gradients", "moments", "averages", "operands", "activations", "workspace", "resident"].filter(k => memory[k] > 0);
    caption(f, "Memory", "by kind; resident: what the process holds in all");
    f.svg.replaceWith(f.svg = bars(kinds.map(k => ({name: k, value: memory[k], text: bytes(memory[k]), own: k !== "resident"}))));
    charts.push(f.node);
  }
  section(root, "modules", "Inside a step", "", ...(charts.length ? [row("modules", ...charts)] : []));
}
function drawSamples(root, run, most = Infinity) {
  const texts = run.samples.slice(-most).reverse().flatMap(s => [make("p", {class: "note"}, `step ${s.step}`), make("blockquote", {}, make("em", {}, s.prompt), s.text)]);
  section(root, "samples", "How it writes", "Samples drawn while it learns, the newest first; what was given is grey.", ...texts);
}
function facts(pairs) {
  return make("div", {class: "facts"}, ...pairs.map(([name, value]) => make("div", {class: "fact"}, make("b", {}, value), make("span", {}, name))));
}
