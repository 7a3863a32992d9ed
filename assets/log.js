// The log page: a window into a log of any length. It asks the server for ranges of lines and keeps a few; everything goes into
// text nodes. Addresses: `#step:line`, `#step@try:line`, `#step@try.rank:line`; `step` is a name or a position, lines count from 1.

const HEIGHT = 20; // pixels of one line
const CHUNK = 200; // lines asked for at once
const KEPT = 60; // chunks in memory
const TALL = 8e6; // pixels; browsers cannot make an element much taller

const $ = (id) => document.getElementById(id);
const box = $("log-window");
const space = box.querySelector(".log-space");
const rows = box.querySelector(".log-rows");
const steps = [...document.querySelectorAll("a.log-step")];

const view = {
  step: null,
  index: { lines: 0, sections: [], errors: [], error_count: 0, ended: true, bytes: 0, indexed_bytes: 0 },
  chunks: new Map(),
  waiting: new Set(),
  top: 0, // first row shown; whole when the space is as tall as the rows
  marked: null, // line of the address, from 0
  folded: new Set(), // lines of folded groups' titles
  hits: [], query: "", hit: -1, searching: false,
  following: false,
  error: -1,
};

const api = (what, query = "") => `/api/v1/attempts/${encodeURIComponent(view.step.dataset.uid)}/log${what}${query}`;

async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}

// Rows and lines: a folded group shows its title only.
function hidden() {
  const out = [];
  for (const s of view.index.sections) {
    if (s.group && view.folded.has(s.line)) {
      const end = s.end ?? view.index.lines;
      const last = out[out.length - 1];
      if (last && s.line < last.end) continue; // inside a folded one
      if (end > s.line + 1) out.push({ from: s.line + 1, end });
    }
  }
  return out;
}

function total() {
  return view.index.lines - hidden().reduce((sum, h) => sum + h.end - h.from, 0);
}

function lineOf(row) {
  let line = row;
  for (const h of hidden()) if (line >= h.from) line += h.end - h.from;
  return line;
}

function rowOf(line) {
  let row = line;
  for (const h of hidden()) if (line >= h.from) row -= Math.min(line, h.end - 1) - h.from + 1;
  return row;
}

const shown = () => Math.max(1, Math.floor(box.clientHeight / HEIGHT));
const tall = () => Math.min(total() * HEIGHT + 16, TALL);
const scaled = () => total() * HEIGHT + 16 > TALL;
const furthest = () => Math.max(0, total() - shown() + 1);

// A log taller than a browser's element: the scroll bar says where, the wheel and the keys move by lines.
let own = -1;
function go(row) {
  view.top = Math.max(0, Math.min(row, furthest()));
  space.style.height = `${tall()}px`;
  box.scrollTop = scaled() ? (view.top / furthest()) * (tall() - box.clientHeight) : view.top * HEIGHT;
  own = box.scrollTop;
  draw();
}

box.addEventListener("scroll", () => {
  const at = box.scrollTop;
  if (Math.abs(at - own) < 1) return; // ours
  own = -1;
  view.top = scaled() ? (at / (tall() - box.clientHeight)) * furthest() : at / HEIGHT;
  const end = view.top >= furthest() - 1.5;
  if (view.following !== end && !view.index.ended) follow(end);
  draw();
}, { passive: true });

box.addEventListener("wheel", (event) => {
  if (!scaled() || event.ctrlKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
  event.preventDefault();
  go(view.top + event.deltaY / (event.deltaMode === 1 ? 1 : HEIGHT));
}, { passive: false });

box.addEventListener("keydown", (event) => {
  const by = { PageDown: shown() - 1, PageUp: 1 - shown(), ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (by !== undefined) go(Math.floor(view.top) + by);
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(furthest());
  else return;
  event.preventDefault();
});

// A window of long lines has fewer of them than were asked for; the rest is asked for again.
async function lines(from) {
  const got = await ask(api("/lines", `?from=${from}&count=${CHUNK}`));
  while (got.lines.length < CHUNK && from + got.lines.length < got.total) {
    const rest = await ask(api("/lines", `?from=${from + got.lines.length}&count=${CHUNK - got.lines.length}`));
    if (rest.lines.length === 0) break;
    got.lines.push(...rest.lines);
    got.total = rest.total;
  }
  return got;
}

function chunk(number) {
  const have = view.chunks.get(number);
  if (have && (have.lines.length === CHUNK || have.total >= view.index.lines)) return have.lines;
  if (!view.waiting.has(number)) {
    view.waiting.add(number);
    const step = view.step;
    lines(number * CHUNK).then((answer) => {
      if (step !== view.step) return;
      view.waiting.delete(number);
      view.chunks.delete(number);
      view.chunks.set(number, { lines: answer.lines, total: answer.lines.length === CHUNK ? Infinity : Math.max(answer.total, number * CHUNK + answer.lines.length) });
      while (view.chunks.size > KEPT) view.chunks.delete(view.chunks.keys().next().value);
      draw();
    }).catch(() => setTimeout(() => { view.waiting.delete(number); draw(); }, 1000));
  }
  return have?.lines ?? [];
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; paint(); });
}

function paint() {
  if (!view.step) return;
  space.style.height = `${tall()}px`;
  const first = Math.floor(view.top);
  const count = Math.min(shown() + 2, Math.max(0, total() - first));
  const some = document.createDocumentFragment();
  const titles = new Map(view.index.sections.map((s) => [s.line, s]));
  const errors = new Set(view.index.errors);
  const found = new Set(view.hits);
  for (let i = 0; i < count; i++) {
    const line = lineOf(first + i);
    const spans = chunk(Math.floor(line / CHUNK))[line % CHUNK];
    some.append(row(line, spans, titles.get(line), errors.has(line), found.has(line)));
  }
  rows.replaceChildren(some);
  rows.style.top = `${scaled() ? box.scrollTop - (view.top - first) * HEIGHT : first * HEIGHT}px`;
}

function row(line, spans, section, error, found) {
  const out = document.createElement("div");
  out.className = "r";
  if (line === view.marked) out.classList.add("marked");
  if (error) out.classList.add("error");
  if (found) out.classList.add("found");
  if (view.hits[view.hit] === line) out.classList.add("current");
  const number = document.createElement("a");
  number.href = `#${view.step.dataset.link}${line + 1}`;
  number.textContent = String(line + 1);
  number.className = "n";
  number.setAttribute("aria-label", `Link to line ${line + 1}`);
  out.append(number);
  if (section?.group) {
    const fold = document.createElement("button");
    fold.type = "button";
    fold.className = "fold";
    const closed = view.folded.has(line);
    fold.textContent = closed ? "▸" : "▾";
    fold.setAttribute("aria-expanded", String(!closed));
    fold.setAttribute("aria-label", `Group ${section.title}`);
    fold.addEventListener("click", () => { closed ? view.folded.delete(line) : view.folded.add(line); foldState(); go(view.top); });
    out.append(fold);
  }
  const text = document.createElement("span");
  text.className = "t";
  if (section) out.classList.add("title");
  if (section?.group) text.append(section.title);
  else if (!spans) text.append("…");
  else for (const span of spans) text.append(...styled(span, found));
  out.append(text);
  return out;
}

function styled({ class: name, text }, found) {
  const parts = found ? marks(text) : [text];
  if (!name) return parts;
  const span = document.createElement("span");
  span.className = name;
  span.append(...parts);
  return [span];
}

function marks(text) {
  const out = [];
  const low = text.toLowerCase();
  const want = view.query.toLowerCase();
  let at = 0;
  for (let next = low.indexOf(want); next >= 0 && want; next = low.indexOf(want, at)) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(next, next + want.length);
    out.push(text.slice(at, next), mark);
    at = next + want.length;
  }
  out.push(text.slice(at));
  return out;
}

// A line into view: unfolds what hides it.
function reach(line, third = true) {
  for (const s of view.index.sections) if (s.group && line > s.line && line < (s.end ?? Infinity)) view.folded.delete(s.line);
  foldState();
  go(rowOf(line) - (third ? Math.floor(shown() / 3) : 0));
}

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB"]) { if (n < 1000) return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`; n /= 1024; }
  return `${n.toFixed(1)} GiB`;
}

let timer;
async function look() {
  clearTimeout(timer);
  const step = view.step;
  try {
    const index = await ask(api("/index"));
    if (step !== view.step) return;
    const before = view.index;
    view.index = index;
    const cut = index.indexed_bytes < index.bytes && index.bytes - index.indexed_bytes > 70000;
    $("log-note").textContent = `${index.lines.toLocaleString("en")} lines · ${bytes(index.bytes)}${cut ? ` · reading, ${Math.floor((index.indexed_bytes / index.bytes) * 100)} %` : index.ended ? "" : " · live"}`;
    if (before.sections.length !== index.sections.length || before === blank) sections();
    $("log-error").hidden = index.error_count === 0;
    errorLabel();
    $("log-follow").hidden = index.ended;
    if (view.following) go(furthest()); else draw();
    if (cut) timer = setTimeout(look, 50);
    else if (!index.ended) timer = setTimeout(look, document.hidden ? 5000 : 800);
    else if (view.following) follow(false);
  } catch {
    timer = setTimeout(look, 3000);
  }
}

const blank = view.index;
async function open(step, line) {
  steps.forEach((s) => s.toggleAttribute("aria-current", s === step));
  step.setAttribute("aria-current", "true");
  Object.assign(view, { step, index: blank, top: 0, marked: line, hits: [], query: "", hit: -1, error: -1 });
  view.chunks.clear();
  view.waiting.clear();
  view.folded.clear();
  rows.replaceChildren();
  $("log-hits").textContent = "";
  $("log-q").value = "";
  const title = $("log-title");
  const rank = step.dataset.rank ? ` rank ${step.dataset.rank}` : "";
  title.replaceChildren(step.querySelector(".i").cloneNode(true), step.dataset.name + rank);
  $("log-raw").href = `/api/v1/attempts/${encodeURIComponent(step.dataset.uid)}/log`;
  $("log-raw").hidden = false;
  follow(line === null && step.dataset.liveLog === "true");
  await look();
  if (line !== null) reach(line);
  else if (/^(failed|errored)$/.test(step.dataset.state) && view.index.errors.length) nextError();
}

function sections() {
  const jump = $("log-jump");
  const first = new Option(`Sections (${view.index.sections.length})`, "");
  jump.replaceChildren(first, ...view.index.sections.slice(0, 500).map((s) => new Option(`${s.line + 1}  ${s.title.slice(0, 60)}`, s.line)));
  jump.hidden = view.index.sections.length === 0;
  $("log-fold").hidden = !view.index.sections.some((s) => s.group);
}

function foldState() {
  const groups = view.index.sections.filter((s) => s.group);
  $("log-fold").setAttribute("aria-pressed", String(groups.length > 0 && groups.every((s) => view.folded.has(s.line))));
}

function errorLabel() {
  const all = view.index.error_count;
  $("log-error").textContent = view.error < 0 ? (all === 1 ? "Go to the error" : `First of ${all} errors`) : `Error ${view.error + 1} of ${all}`;
}

function nextError() {
  const all = view.index.errors;
  if (!all.length) return;
  view.error = (view.error + 1) % all.length;
  follow(false);
  errorLabel();
  view.marked = all[view.error];
  reach(view.marked);
}

function follow(on) {
  view.following = on;
  $("log-follow").setAttribute("aria-pressed", String(on));
  if (on) go(furthest());
}

// Search: in the order of the log, as far as the reader goes through the matches.
async function search(by) {
  const query = $("log-q").value;
  if (!view.step || !query) { Object.assign(view, { hits: [], query: "", hit: -1 }); $("log-hits").textContent = ""; draw(); return; }
  if (query !== view.query) {
    Object.assign(view, { query, hits: [], hit: -1, searching: true });
    const step = view.step;
    let from = 0;
    while (from !== null && view.hits.length < 5000) {
      const answer = await ask(api("/search", `?q=${encodeURIComponent(query)}&from=${from}`)).catch(() => null);
      if (step !== view.step || query !== view.query) return;
      if (!answer) break;
      const none = view.hits.length === 0;
      view.hits.push(...answer.lines);
      from = answer.next;
      if (none && view.hits.length) step1(1);
      hitLabel(from !== null);
    }
    view.searching = false;
    hitLabel(false);
    return;
  }
  step1(by);
}

function step1(by) {
  if (!view.hits.length) return;
  if (view.hit < 0) view.hit = Math.max(0, view.hits.findIndex((line) => line >= lineOf(Math.floor(view.top))));
  else view.hit = (view.hit + by + view.hits.length) % view.hits.length;
  follow(false);
  reach(view.hits[view.hit]);
  hitLabel(view.searching);
}

function hitLabel(more) {
  const many = `${view.hits.length}${more || view.hits.length >= 5000 ? "+" : ""}`;
  $("log-hits").textContent = view.hits.length ? `${view.hit + 1} of ${many} lines` : more ? "searching…" : "no line";
}

$("log-find").addEventListener("submit", (event) => { event.preventDefault(); search(1); });
$("log-q").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.shiftKey) { event.preventDefault(); search(-1); } });
$("log-q").addEventListener("search", () => { if (!$("log-q").value) search(1); });
$("log-prev").addEventListener("click", () => search(-1));
$("log-error").addEventListener("click", nextError);
$("log-follow").addEventListener("click", () => follow(!view.following));
$("log-jump").addEventListener("change", (event) => {
  if (event.target.value !== "") { follow(false); view.marked = Number(event.target.value); reach(view.marked, false); }
  event.target.value = "";
});
$("log-fold").addEventListener("click", () => {
  const all = $("log-fold").getAttribute("aria-pressed") === "true";
  for (const s of view.index.sections) if (s.group) { if (all) view.folded.delete(s.line); else view.folded.add(s.line); }
  foldState();
  go(view.top);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
  if (event.key === "n") search(1);
  else if (event.key === "N") search(-1);
  else if (event.key === "e") nextError();
});
new ResizeObserver(() => { if (view.following) go(furthest()); else draw(); }).observe(box);

// The address says which step and line.
function address() {
  const [, name, number, line] = /^#(.*?)(?:@(\d+(?:\.\d+)?))?(?::(\d*))?$/.exec(location.hash) ?? [];
  let wanted = "";
  try { wanted = decodeURIComponent(name ?? ""); } catch { /* not an address of ours */ }
  const tries = steps.filter((s) => s.dataset.name === wanted || s.dataset.position === wanted);
  const first = (all) => all.filter((s) => !s.dataset.rank).at(-1); // the last try, of several pods the first
  const step = (number ? tries.find((s) => s.dataset.number === number) : first(tries))
    ?? (wanted ? null : steps.find((s) => s.dataset.telling) ?? first(steps));
  const at = line ? Number(line) - 1 : null;
  if (!step) { $("log-title").textContent = steps.length ? "No step of this name" : "No step has started"; return; }
  if (step !== view.step) { open(step, at); return; }
  view.marked = at;
  if (at !== null) {
    follow(false);
    const row = rowOf(at);
    if (row < view.top || row > view.top + shown() - 2) reach(at); else draw();
  }
}
addEventListener("hashchange", address);
address();
