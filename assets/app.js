// The dashboard's script: fetches the live parts again, follows the log, reads values off curves. Everything it shows was
// escaped by the server or goes into text nodes; it makes no markup from data.

const LINES_MAX = 20000;

// Live parts: the page is fetched again, and what is marked `data-live` and differs takes the old one's place.
let refreshing = false;
let timer;
async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  try {
    const url = new URL(location.href);
    url.searchParams.set("part", "live");
    url.hash = "";
    const response = await fetch(url, { headers: { accept: "text/html" }, redirect: "error" });
    if (response.ok) {
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next && next.innerHTML !== part.served && !busy(part)) swap(part, next);
      }
      log.moveTo(fresh.getElementById("log"));
      const every = Number(fresh.body.dataset.refresh || 0);
      if (every !== Number(document.body.dataset.refresh || 0)) schedule(every);
    } else if (response.status === 401 || response.status === 404) {
      schedule(0);
    }
  } catch {
    // The daemon restarts or the network is away: the next turn tries again.
  } finally {
    refreshing = false;
  }
}

// Someone types or has selected text here: leave it alone.
function busy(part) {
  const active = document.activeElement;
  if (active && part.contains(active) && active.matches("input, select, textarea")) return true;
  const selection = getSelection();
  return !selection.isCollapsed && part.contains(selection.anchorNode);
}

function swap(part, next) {
  const open = new Set([...part.querySelectorAll("details")].map((d, i) => (d.open ? i : -1)));
  const active = document.activeElement;
  const focused = part.contains(active) ? active.getAttribute("href") : null;
  const scrolled = [...part.querySelectorAll(".graph-scroll")].map((e) => e.scrollLeft);
  part.served = next.innerHTML;
  part.replaceChildren(...document.importNode(next, true).childNodes);
  part.querySelectorAll("details").forEach((d, i) => { if (open.has(i)) d.open = true; });
  part.querySelectorAll(".graph-scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
  if (focused) [...part.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
}

// A page with events of its own: curves come as the server draws them, and it says when something else has changed.
let events;
function listen() {
  events?.close();
  events = null;
  const path = document.body.dataset.stream;
  if (!path || document.hidden) return;
  events = new EventSource(path);
  events.addEventListener("chart", (event) => redraw(JSON.parse(event.data)));
  events.addEventListener("changed", () => refresh());
  events.addEventListener("end", () => {
    delete document.body.dataset.stream;
    events?.close();
    refresh();
  });
}

function redraw({ name, html }) {
  const old = [...document.querySelectorAll("#curves .chart")].find((c) => c.dataset.name === name);
  // A reader's pointer is on it: the next one will do.
  if (!old || old.classList.contains("read")) return;
  const next = new DOMParser().parseFromString(html, "text/html").querySelector(".chart");
  if (next) old.replaceWith(document.importNode(next, true));
}

function schedule(every) {
  document.body.dataset.refresh = every;
  clearInterval(timer);
  if (every > 0) timer = setInterval(refresh, every);
}

// The log of one attempt.
const log = {
  box: document.getElementById("log"),
  stream: null,
  partial: null,

  start() {
    this.box = document.getElementById("log");
    if (!this.box) return;
    this.lines = document.getElementById("lines");
    this.button = document.getElementById("follow");
    if (this.button) {
      this.button.hidden = this.lines.dataset.liveLog !== "true";
      this.button.addEventListener("click", () => this.follow(this.button.getAttribute("aria-pressed") !== "true"));
    }
    this.lines.addEventListener("scroll", () => {
      const atEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 24;
      if (atEnd !== this.following) this.follow(atEnd, false);
      if (atEnd) this.end = this.lines.scrollTop;
    }, { passive: true });
    document.getElementById("pick")?.addEventListener("change", (event) => event.target.form.submit());
    this.follow(true);
    if (this.box.dataset.attempt && this.lines.dataset.liveLog === "true") this.open();
  },

  open() {
    const uid = encodeURIComponent(this.box.dataset.attempt);
    const from = encodeURIComponent(this.lines.dataset.next);
    const stream = new EventSource(`/api/v1/attempts/${uid}/log/stream?as=lines&from=${from}`);
    this.stream = stream;
    stream.addEventListener("lines", (event) => this.append(JSON.parse(event.data)));
    stream.addEventListener("gap", (event) => this.note(`${event.data} bytes are no longer kept`));
    stream.addEventListener("end", () => { this.close(); refresh(); });
    stream.addEventListener("problem", () => this.close());
  },

  close() {
    this.stream?.close();
    this.stream = null;
    if (this.button) this.button.hidden = true;
  },

  // Where the end was when the log, or its reader, was last there.
  end: 0,

  toEnd() {
    this.lines.scrollTop = this.lines.scrollHeight;
    this.end = this.lines.scrollTop;
  },

  append({ lines, partial }) {
    // A reader who has scrolled back since the last line may not have been heard yet.
    if (this.following && this.lines.scrollTop < this.end - 24) this.follow(false, false);
    this.partial?.remove();
    this.partial = null;
    const some = document.createDocumentFragment();
    for (const line of lines) some.append(row(line));
    if (partial) some.append((this.partial = row(partial)));
    this.lines.append(some);
    while (this.lines.childElementCount > LINES_MAX) this.lines.firstElementChild.remove();
    if (this.following) this.toEnd();
  },

  note(text) {
    const line = row([{ class: "", text }]);
    line.classList.add("note");
    this.lines.append(line);
  },

  follow(on, jump = true) {
    this.following = on;
    this.button?.setAttribute("aria-pressed", String(on));
    if (on && jump) this.toEnd();
  },

  // The run has moved on to another step or try: go along, unless the reader chose this one.
  moveTo(fresh) {
    if (!this.box || !fresh) return;
    const same = fresh.dataset.attempt === this.box.dataset.attempt;
    const may = this.box.dataset.pinned === "false" || this.box.dataset.attempt === "";
    if (same || !may) {
      if (same) for (const part of [".log-bar h2", ".log-note"]) {
        const [old, next] = [this.box.querySelector(part), fresh.querySelector(part)];
        if (old && next && old.innerHTML !== next.innerHTML) old.replaceWith(document.importNode(next, true));
      }
      return;
    }
    // Its last lines are still coming.
    if (this.stream) return;
    const next = document.importNode(fresh, true);
    this.box.replaceWith(next);
    this.partial = null;
    // The fresh part came without its lines: follow from the first byte.
    const lines = document.getElementById("lines");
    lines.dataset.next = "0";
    if (next.dataset.attempt) { lines.replaceChildren(); lines.dataset.liveLog = "true"; }
    this.start();
  },
};

function row(spans) {
  const line = document.createElement("div");
  line.className = "l";
  const text = document.createElement("span");
  text.className = "t";
  for (const { class: name, text: content } of spans) {
    if (name === "") { text.append(content); continue; }
    const span = document.createElement("span");
    span.className = name;
    span.textContent = content;
    text.append(span);
  }
  line.append(text);
  return line;
}

// Curves: the values under the pointer.
const SVG = "http://www.w3.org/2000/svg";
const AREA = { left: 48, right: 410, top: 10, bottom: 166, width: 420 };

function clear(chart) {
  chart.querySelectorAll(".cross, .cross-dot, .readout").forEach((e) => e.remove());
}

function short(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e9) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest?.(".chart");
  document.querySelectorAll(".chart.read").forEach((c) => { if (c !== chart) { clear(c); c.classList.remove("read"); } });
  if (!chart) return;
  const svg = chart.querySelector("svg");
  const box = svg.getBoundingClientRect();
  const [x0, x1, y0, y1] = chart.dataset.domain.split(" ").map(Number);
  const px = ((event.clientX - box.left) / box.width) * AREA.width;
  const x = x0 + ((px - AREA.left) / (AREA.right - AREA.left)) * (x1 - x0);
  clear(chart);
  chart.classList.add("read");
  const readout = document.createElement("div");
  readout.className = px > 230 ? "readout left" : "readout";
  let at = null;
  for (const curve of chart.querySelectorAll(".curve")) {
    const xs = curve.dataset.xs.split(" ").map(Number);
    const ys = curve.dataset.ys.split(" ").map(Number);
    if (!curve.dataset.xs) continue;
    let best = 0;
    for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - x) < Math.abs(xs[best] - x)) best = i;
    if (at === null || Math.abs(xs[best] - x) < Math.abs(at - x)) at = xs[best];
    const dot = document.createElementNS(SVG, "circle");
    dot.setAttribute("class", `cross-dot ${curve.classList[1]}`);
    dot.setAttribute("cx", AREA.left + ((xs[best] - x0) / (x1 - x0)) * (AREA.right - AREA.left));
    dot.setAttribute("cy", AREA.bottom - ((ys[best] - y0) / (y1 - y0)) * (AREA.bottom - AREA.top));
    dot.setAttribute("r", 3.5);
    svg.append(dot);
    const line = document.createElement("div");
    line.className = curve.classList[1];
    const text = document.createElement("span");
    text.textContent = `${curve.dataset.label}: ${short(ys[best])}`;
    line.append(text);
    readout.append(line);
  }
  if (at === null) return;
  const head = document.createElement("b");
  const names = chart.dataset.names?.split(" ");
  chart.dataset.at = at;
  head.textContent = names ? `run of ${names[at - 1]}` : `${chart.dataset.x || "x"} ${short(at)}`;
  readout.prepend(head);
  const cross = document.createElementNS(SVG, "path");
  const cx = AREA.left + ((at - x0) / (x1 - x0)) * (AREA.right - AREA.left);
  cross.setAttribute("class", "cross");
  cross.setAttribute("d", `M${cx} ${AREA.top}V${AREA.bottom}`);
  svg.append(cross);
  chart.append(readout);
});

log.start();
document.querySelectorAll("[data-live]").forEach((part) => { part.served = part.innerHTML; });
schedule(Number(document.body.dataset.refresh || 0));
listen();
document.addEventListener("visibilitychange", () => {
  // A browser has few connections to one server: hidden pages give theirs back.
  listen();
  if (!document.hidden && Number(document.body.dataset.refresh)) refresh();
});

// A chart whose x axis counts runs leads to them.
document.addEventListener("click", (event) => {
  const chart = event.target.closest?.(".chart[data-runs]");
  const at = chart?.dataset.at;
  if (at) location.href = `/runs/${encodeURIComponent(chart.dataset.runs.split(" ")[Number(at) - 1])}`;
});

// Keys: j and k walk the rows of a list, / goes to the search, ? lists them all.
let prefix = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const typing = event.target.closest("input, select, textarea, dialog[open]");
  if (typing) {
    if (event.key === "Escape" && event.target.matches("input")) event.target.blur();
    return;
  }
  const after = prefix;
  prefix = false;
  const places = { r: "/", p: "/repos", d: "/deliveries", o: "/pools" };
  if (after && places[event.key]) {
    location.href = places[event.key];
  } else if (event.key === "j" || event.key === "k") {
    walk(event.key === "j" ? 1 : -1);
  } else if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (!field) return;
    field.focus();
    field.select();
  } else if (event.key === "?") {
    document.getElementById("keys")?.showModal();
  } else if (event.key === "g") {
    prefix = true;
    return;
  } else if (event.key === "l" && document.getElementById("whole-log")) {
    location.href = document.getElementById("whole-log").href;
  } else {
    return;
  }
  event.preventDefault();
});

function walk(by) {
  const rows = [...document.querySelectorAll("[data-keys] [data-key]")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next.focus();
  next.closest("li")?.scrollIntoView({ block: "nearest" });
}
