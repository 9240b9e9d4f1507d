// The page of a live dashboard: what comes, what it means, and how it is drawn. No library but the client itself.

import { connect } from "../roomwire.js";

const ROOM = "metrics:live";
const WINDOW = 60_000; // milliseconds that the charts show
const SAMPLE_EVERY = 250; // milliseconds
const SILENT_AFTER = 3_000; // milliseconds without a word of a host
const FORGOTTEN_AFTER = 60_000;
const FAILURES = 2; // attempts at a WebSocket that never opens, before server-sent events are tried
const REGIONS = { fra: "Frankfurt", iad: "Virginia", sin: "Singapore" };
const DASHES = [[], [7, 5], [1.5, 5], [10, 4, 1, 4]];
const METRICS = [
  { key: "rps", label: "Requests", unit: "/s", digits: 0, limits: [Infinity, Infinity], least: 200 },
  { key: "p95", label: "Latency p95", unit: "ms", digits: 0, limits: [150, 500], least: 20 },
  { key: "errors", label: "Error rate", unit: "%", digits: 2, limits: [0.5, 2], least: 0.3 },
  { key: "cpu", label: "CPU", unit: "%", digits: 0, limits: [80, 92], least: 12 },
  { key: "queue", label: "Queue", unit: "waiting", digits: 0, limits: [120, 600], least: 30 },
];
const WORDS = { ok: "ok", warn: "high", bad: "critical" };
const HOST_WORDS = { ok: "ok", warn: "busy", bad: "failing", gone: "silent" };

const $ = (id) => document.getElementById(id);

/** An element; text only ever goes in as text. */
function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

const formats = new Map();
function shown(value, digits = 0) {
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return formats.get(digits).format(value);
}

/** Written only where it changed: what did not is not laid out again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const toneOf = (value, [warn, bad]) => (value >= bad ? "bad" : value >= warn ? "warn" : "ok");

// --- what is known

const hosts = new Map(); // name -> { last, heard, row }
let samples = []; // of the last minute: { t, fleet, regions, hosts }
let notes = []; // { t, text }
let regions = []; // in the order of their colours
let skew = null; // how far this device's clock is before the server's, milliseconds, at the least
let heard = null; // when the last update came
let received = 0; // in this second
let measured = 0;

function take(measurement) {
  const { name, at, count } = measurement;
  const now = performance.now();
  const host = hosts.get(name) ?? { last: null, row: null };
  received += 1;
  heard = host.heard = now;
  // Another count: the host was started anew, and says nothing of what came in between.
  if (host.last !== null && count > host.last.count) measured += Math.min(count - host.last.count, 1000);
  if (host.last !== null && at < host.last.at && count <= host.last.count && host.last.at - at < 60) return;
  host.last = measurement;
  hosts.set(name, host);
  const ahead = Date.now() - at * 1000;
  skew = skew === null ? ahead : Math.min(ahead, skew + 0.5);
  if (!regions.includes(measurement.region)) {
    regions = [...regions, measurement.region].sort();
    showLegend();
  }
}

const serverNow = () => Date.now() - (skew ?? 0);

/** The fleet, its regions and its hosts at one time. */
function sampleOf(t, measurements) {
  const fleet = { rps: 0, p95: 0, errors: 0, cpu: 0, queue: 0 };
  const sample = { t, fleet, regions: {}, hosts: {} };
  for (const each of measurements) {
    fleet.rps += each.rps;
    fleet.queue += each.queue;
    fleet.cpu += each.cpu / measurements.length;
    fleet.p95 += each.p95 * each.rps; // every request counts the same
    fleet.errors += each.errors * each.rps;
    sample.regions[each.region] = (sample.regions[each.region] ?? 0) + each.rps;
    sample.hosts[each.name] = each.rps;
  }
  fleet.p95 /= fleet.rps || 1;
  fleet.errors /= fleet.rps || 1;
  return sample;
}

/** The last minute as the server knows it, by host. It fills what this page has not seen. */
function fill(state) {
  const seconds = new Map();
  for (const each of Object.values(state).flat()) {
    const second = Math.floor(each.at);
    seconds.set(second, [...(seconds.get(second) ?? []), each]);
  }
  const past = [...seconds].map(([second, all]) => sampleOf(second * 1000 + 500, all)).sort((a, b) => a.t - b.t);
  for (const all of Object.values(state)) if (all.length > 0) take(all.at(-1));
  const most = Math.max(0, ...past.map(({ hosts }) => Object.keys(hosts).length));
  const whole = past.filter(({ hosts }) => Object.keys(hosts).length === most);
  const missing = (t) => !samples.some((sample) => Math.abs(sample.t - t) < 1000);
  samples = [...samples, ...whole.filter(({ t }) => missing(t))].sort((a, b) => a.t - b.t);
}

function sample() {
  const now = performance.now();
  for (const [name, host] of hosts) {
    if (now - host.heard < FORGOTTEN_AFTER) continue;
    host.row?.element.remove();
    hosts.delete(name);
  }
  const live = [...hosts.values()].filter((host) => now - host.heard < SILENT_AFTER).map(({ last }) => last);
  const t = serverNow();
  if (live.length > 0 && heard !== null && now - heard < 1000) samples.push(sampleOf(t, live));
  samples = samples.filter((each) => each.t > t - WINDOW - 2000);
  notes = notes.filter((each) => each.t > t - WINDOW);
}

// --- two ways to the server; each tells `tell(state, { delay, text })`, and hands over what comes

class SocketLink {
  constructor(token, tell) {
    let opened = false;
    let failures = 0;
    this.client = connect(new URL("../ws", import.meta.url), { token });
    const room = this.client.room(ROOM);
    const live = () => this.client.state === "open" && tell("live");
    room.on("host", (measurement) => (take(measurement), live()));
    room.on("note", note);
    room.on("room.state", ({ state }) => (fill(state ?? {}), live()));
    room.on("room.recovered", ({ recovered }) => recovered && live());
    room.on("room.removed", ({ reason }) => tell("closed", { text: reason }));
    this.client.on("session.statechange", ({ state, delay, error }) => {
      opened ||= state === "open";
      if (state === "open") tell("catching-up");
      else if (state === "connecting") tell("connecting");
      else if (state === "closed" && error) tell("closed", { text: error.message });
      else if (state === "waiting") {
        failures += 1;
        if (!opened && failures >= FAILURES) tell("blocked");
        else tell("waiting", { delay });
      }
    });
    room.join({ state: true }).catch((error) => {
      if (error.code !== "closed") tell("closed", { text: error.message });
    });
  }

  close() {
    this.client.close();
  }
}

class StreamLink {
  constructor(token, tell) {
    this.token = token;
    this.tell = tell;
    this.failures = 0;
    this.last = ""; // the id of the last event
    this.client = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    this.open();
  }

  async open() {
    this.tell("connecting");
    const url = new URL("../sse", import.meta.url);
    try {
      const query = { room: ROOM, client: this.client, token: await this.token() };
      url.search = new URLSearchParams({ ...query, ...(this.last ? { last_event_id: this.last } : { state: "1" }) });
    } catch {
      this.retry();
      return;
    }
    if (this.closed) return;
    const source = (this.source = new EventSource(url));
    const on = (event, handle) =>
      source.addEventListener(event, ({ data, lastEventId }) => {
        if (this.closed) return;
        this.last = lastEventId || this.last;
        handle(JSON.parse(data).data);
      });
    const live = () => ((this.failures = 0), this.tell("live"));
    on("host", (measurement) => (take(measurement), live()));
    on("note", note);
    on("room.state", ({ state }) => (fill(state ?? {}), live()));
    on("session.closing", ({ code, reason, reconnect }) => {
      if (!reconnect) {
        this.close();
        this.tell("closed", { text: reason });
      } else if (code === 4003) this.retry(); // the token expired, and is part of the URL
    });
    source.onopen = () => this.tell("catching-up");
    source.onerror = () => {
      // The browser comes back by itself, but not after a refusal.
      if (source.readyState !== EventSource.CLOSED) this.tell("waiting");
      else this.retry();
    };
  }

  retry() {
    if (this.closed) return;
    this.source?.close();
    const delay = Math.min(30_000, 1000 * 2 ** this.failures++) * (0.5 + Math.random() / 2);
    this.tell("waiting", { delay });
    this.timer = setTimeout(() => this.open(), delay);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.source?.close();
  }
}

function note({ at, text }) {
  if (!notes.some((each) => each.t === at * 1000)) notes.push({ t: at * 1000, text });
}

let link = null;
let me = null;
let until = null; // the next attempt

/** Open the one or the other way; what an earlier one says is not heard any more. */
function use(Link, why) {
  link?.close();
  until = null;
  const streams = Link === StreamLink;
  $("by-sse").setAttribute("aria-checked", String(streams));
  write($("way"), streams ? "Server-sent events" : "WebSocket");
  write($("why"), why ?? "For readers behind a proxy that lets no WebSocket through.");
  let mine = null;
  const tell = (state, detail) => (mine === link || mine === null) && showState(state, detail);
  link = null;
  mine = link = new Link(async () => (await userOf(me)).token, tell);
}

const STATES = {
  connecting: "connecting",
  "catching-up": "catching up",
  live: "live",
  waiting: "reconnecting",
  closed: "closed",
};

function showState(state, { delay, text } = {}) {
  if (state === "blocked") {
    use(StreamLink, "No WebSocket came through, so this page reads server-sent events.");
    return;
  }
  until = state === "waiting" && delay !== undefined ? performance.now() + delay : null;
  $("board").dataset.state = state;
  write($("state"), text ? `${STATES[state]}: ${text}` : STATES[state]);
  showCountdown();
}

function showCountdown() {
  write($("countdown"), until === null ? "" : `in ${Math.max(0, Math.ceil((until - performance.now()) / 1000))} s`);
}

// --- drawing

const colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["text", "quiet", "grid", "panel", "wait", "bad", "series-0", "series-1", "series-2", "series-3"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
}
readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColours);

const sizes = new WeakMap(); // canvas -> [width, height] in CSS pixels
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) sizes.set(target, [contentRect.width, contentRect.height]);
});

/** The canvas, cleared, with as many pixels as the screen has. */
function clean(canvas) {
  const size = sizes.get(canvas);
  if (size === undefined || size[0] === 0) return null;
  const ratio = devicePixelRatio || 1;
  const [width, height] = size;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

const scales = new WeakMap(); // canvas -> [low, high], which follow the values without a jump
function scaleOf(canvas, values, least, fromZero) {
  let low = fromZero ? 0 : Math.min(...values);
  let high = Math.max(...values);
  if (high - low < least) {
    const middle = (high + low) / 2;
    [low, high] = fromZero ? [0, least] : [Math.max(0, middle - least / 2), Math.max(middle + least / 2, least)];
  }
  const before = scales.get(canvas) ?? [low, high];
  const scale = [before[0] + (low - before[0]) * 0.12, before[1] + (high - before[1]) * 0.12];
  scales.set(canvas, scale);
  return scale;
}

/** Pieces of a line: it is broken where nothing was heard. */
function pieces(points) {
  const found = [];
  let last = -Infinity;
  for (const point of points) {
    if (point[0] - last > 3200) found.push([]);
    found.at(-1).push(point);
    last = point[0];
  }
  return found;
}

function trace(context, piece, x, y) {
  context.beginPath();
  for (const [index, [t, value]] of piece.entries()) context[index === 0 ? "moveTo" : "lineTo"](x(t), y(value));
}

function spark(canvas, points, { colour, least, area = false }) {
  const ready = clean(canvas);
  if (ready === null || points.length === 0) return;
  const [context, width, height] = ready;
  const scale = scaleOf(canvas, points.map(([, value]) => value), least, false);
  const end = serverNow() - SAMPLE_EVERY;
  const right = width - (area ? 14 : 5);
  const x = (t) => right - ((end - t) / WINDOW) * right;
  const y = (value) => height - 7 - ((value - scale[0]) / (scale[1] - scale[0] || 1)) * (height - 14);
  Object.assign(context, { lineJoin: "round", lineCap: "round", lineWidth: area ? 2 : 1.5, strokeStyle: colour });
  for (const piece of pieces(points)) {
    if (area) {
      const fade = context.createLinearGradient(0, 0, 0, height);
      fade.addColorStop(0, `${colour}4d`);
      fade.addColorStop(1, `${colour}00`);
      trace(context, piece, x, y);
      context.lineTo(x(piece.at(-1)[0]), height);
      context.lineTo(x(piece[0][0]), height);
      Object.assign(context, { fillStyle: fade }).fill();
    }
    trace(context, piece, x, y);
    context.stroke();
  }
  const [t, value] = points.at(-1);
  context.beginPath();
  context.arc(x(t), y(value), area ? 3.5 : 2.5, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: colour }).fill();
}

function steps(high) {
  const rough = high / 4;
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
}

function drawTraffic() {
  const canvas = $("chart");
  const ready = clean(canvas);
  if (ready === null || samples.length === 0) return;
  const [context, width, height] = ready;
  const [left, right, top, bottom] = [44, width - 10, 20, height - 24];
  const values = samples.flatMap((each) => Object.values(each.regions));
  const scale = scaleOf(canvas, values.map((each) => each * 1.12), 100, true);
  const end = serverNow() - SAMPLE_EVERY;
  const x = (t) => right - ((end - t) / WINDOW) * (right - left);
  const y = (value) => bottom - (value / scale[1]) * (bottom - top);
  Object.assign(context, { font: "12px system-ui, sans-serif", lineWidth: 1, textBaseline: "middle", textAlign: "right" });
  const step = steps(scale[1]);
  for (let value = 0; value <= scale[1]; value += step) {
    const line = Math.round(y(value)) + 0.5;
    Object.assign(context, { strokeStyle: colours.grid, fillStyle: colours.quiet });
    context.beginPath();
    context.moveTo(left, line);
    context.lineTo(right, line);
    context.stroke();
    context.fillText(shown(value), left - 8, line);
  }
  context.textAlign = "center";
  for (const seconds of [60, 45, 30, 15]) context.fillText(`−${seconds} s`, Math.max(left + 14, right - (seconds / 60) * (right - left)), height - 9);
  context.textAlign = "right";
  context.fillText("now", right, height - 9);

  context.save();
  context.beginPath();
  context.rect(left, 0, right - left + 6, height);
  context.clip();
  for (const { t, text } of notes) {
    const line = Math.round(x(t)) + 0.5;
    Object.assign(context, { strokeStyle: colours.wait, fillStyle: colours.wait, textAlign: line > right - 160 ? "right" : "left" });
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(line, top - 12);
    context.lineTo(line, bottom);
    context.stroke();
    context.setLineDash([]);
    context.fillText(text, line + (context.textAlign === "left" ? 7 : -7), top - 6);
  }
  Object.assign(context, { lineWidth: 2.25, lineJoin: "round", lineCap: "round" });
  for (const [index, region] of regions.entries()) {
    const colour = colours[`series-${index % 4}`];
    const points = samples.filter((each) => region in each.regions).map((each) => [each.t, each.regions[region]]);
    Object.assign(context, { strokeStyle: colour, fillStyle: colour });
    context.setLineDash(DASHES[index % 4]);
    for (const piece of pieces(points)) {
      trace(context, piece, x, y);
      context.stroke();
    }
    context.setLineDash([]);
    if (points.length > 0) {
      context.beginPath();
      context.arc(x(points.at(-1)[0]), y(points.at(-1)[1]), 4, 0, 2 * Math.PI);
      context.fill();
    }
  }
  context.restore();
}

// --- tiles, table, numbers

const tiles = METRICS.map((metric) => {
  const tone = make("span", { className: "tone", hidden: true });
  const value = make("span", { className: "figure", text: "–" });
  const delta = make("div", { className: "delta", text: "\u00a0" });
  const canvas = make("canvas");
  canvas.setAttribute("aria-hidden", "true");
  resized.observe(canvas);
  const element = make("article", { className: "tile" });
  element.dataset.metric = metric.key;
  element.append(
    make("h2", {}, make("span", { text: metric.label }), tone),
    make("div", { className: "value" }, value, make("span", { className: "unit", text: metric.unit })),
    delta,
    canvas,
  );
  $("tiles").append(element);
  return { metric, tone, value, delta, canvas };
});
resized.observe($("chart"));

function setTone(element, tone, words) {
  element.className = `tone ${tone}`;
  write(element, words[tone]);
}

function showTiles() {
  const now = samples.at(-1);
  if (now === undefined) return;
  const before = samples.find(({ t }) => t > now.t - WINDOW) ?? now;
  for (const { metric, tone, value, delta } of tiles) {
    const { key, digits, limits } = metric;
    write(value, shown(now.fleet[key], digits));
    tone.hidden = toneOf(now.fleet[key], limits) === "ok";
    setTone(tone, toneOf(now.fleet[key], limits), WORDS);
    const change = now.fleet[key] - before.fleet[key];
    const arrow = Math.abs(change) < 0.5 / 10 ** digits ? "=" : change > 0 ? "↑" : "↓";
    write(delta, `${arrow} ${shown(Math.abs(change), digits)} in a minute`);
  }
}

function showLegend() {
  const items = regions.map((region, index) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ x1: 1, x2: 21, y1: 4, y2: 4, class: `s${index % 4}` })) line.setAttribute(name, value);
    svg.append(line);
    const value = make("b", { text: "–" });
    value.dataset.region = region;
    return make("li", {}, svg, make("span", { text: REGIONS[region] ?? region }), value);
  });
  $("legend").replaceChildren(...items);
}

function rowOf(name) {
  const cells = { tone: make("span", { className: "tone" }), bar: make("i"), cpu: make("b"), canvas: make("canvas") };
  for (const key of ["rps", "p95", "errors", "queue"]) cells[key] = make("td", { className: key === "queue" ? "number wide" : "number" });
  cells.canvas.setAttribute("aria-hidden", "true");
  resized.observe(cells.canvas);
  const cpu = make("div", { className: "cpu" }, make("span", { className: "bar" }, cells.bar), cells.cpu);
  const element = make("tr", {}, make("th", { scope: "row", text: name }), make("td", {}, cells.tone));
  element.append(make("td", { className: "wide" }, cells.canvas), cells.rps, cells.p95, cells.errors, make("td", {}, cpu), cells.queue);
  element.dataset.host = name;
  const after = [...$("rows").children].find((other) => other.dataset.host > name);
  $("rows").insertBefore(element, after ?? null);
  return { element, ...cells };
}

function showHosts() {
  const now = performance.now();
  for (const [name, host] of hosts) {
    const row = (host.row ??= rowOf(name));
    const { last } = host;
    const silent = now - host.heard > SILENT_AFTER;
    const worst = ["bad", "warn"].find((tone) => METRICS.slice(1, 4).some(({ key, limits }) => toneOf(last[key], limits) === tone)) ?? "ok";
    const tone = silent ? "gone" : worst;
    row.element.className = tone;
    setTone(row.tone, tone, HOST_WORDS);
    write(row.rps, shown(last.rps));
    write(row.p95, shown(last.p95));
    write(row.errors, `${shown(last.errors, 2)} %`);
    write(row.queue, shown(last.queue));
    write(row.cpu, `${shown(last.cpu)} %`);
    row.bar.style.transform = `scaleX(${last.cpu / 100})`;
  }
  const sum = samples.at(-1)?.regions ?? {};
  for (const value of $("legend").querySelectorAll("b")) write(value, value.dataset.region in sum ? shown(sum[value.dataset.region]) : "–");
  write($("size"), `${hosts.size} hosts in ${regions.length} regions`);
}

function showAge() {
  const age = heard === null ? null : (performance.now() - heard) / 1000;
  write($("age"), age === null ? "nothing yet" : `last update ${age < 10 ? age.toFixed(1) : Math.round(age)} s ago`);
  showCountdown();
}

function countSecond() {
  write($("received"), shown(received));
  write($("measured"), shown(measured));
  received = measured = 0;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let drawn = 0;
function draw(now) {
  requestAnimationFrame(draw);
  if (now - drawn < (calm.matches ? 1000 : 30) || $("board").hidden) return;
  drawn = now;
  for (const { metric, canvas } of tiles) {
    spark(canvas, samples.map((each) => [each.t, each.fleet[metric.key]]), { colour: colours["series-0"], least: metric.least, area: true });
  }
  drawTraffic();
  for (const [name, { row, last }] of hosts) {
    if (row === null) continue;
    const points = samples.filter((each) => name in each.hosts).map((each) => [each.t, each.hosts[name]]);
    spark(row.canvas, points, { colour: colours[`series-${regions.indexOf(last.region) % 4}`], least: 60 });
  }
}
requestAnimationFrame(draw);
setInterval(() => (sample(), showTiles(), showHosts(), showAge()), SAMPLE_EVERY);
setInterval(countSecond, 1000);

// --- coming, going, operating

async function users() {
  const response = await fetch(new URL("../demo/tokens", import.meta.url), { cache: "no-store" });
  if (!response.ok) throw new Error(`the server gives no tokens (${response.status})`);
  return (await response.json()).users;
}

/** With a fresh token: asked for before every attempt to connect. */
async function userOf(user) {
  const found = (await users()).find((each) => each.user === user);
  if (found === undefined) throw new Error(`There is no user ${user} here.`);
  return found;
}

/** Of the routes that FastAPI has beside; what went wrong stands under the controls. */
async function ask(method, path, body) {
  try {
    const headers = { Authorization: `Bearer ${(await userOf(me)).token}`, "Content-Type": "application/json" };
    const response = await fetch(new URL(`../api/${path}`, import.meta.url), { method, headers, body: JSON.stringify(body) });
    const answer = await response.json();
    write($("outcome"), response.ok ? "" : String(answer.detail));
    return answer;
  } catch (error) {
    write($("outcome"), error.message);
    return {};
  }
}

async function showLogin(fault = "") {
  $("board").hidden = true;
  $("login").hidden = false;
  write($("fault"), fault);
  try {
    const buttons = (await users()).map(({ user, name }) => {
      const role = user === "ben" ? "watches, and may inject load" : "watches";
      return make("button", { type: "button", onclick: () => enter(user) }, make("strong", { text: name }), make("span", { className: "quiet small", text: role }));
    });
    $("users").replaceChildren(...buttons);
  } catch (error) {
    write($("fault"), error.message);
  }
}

function setQuery(name, value) {
  const page = new URL(location.href);
  if (value === null) page.searchParams.delete(name);
  else page.searchParams.set(name, value);
  history.replaceState(null, "", page);
}

async function enter(user) {
  let found;
  try {
    found = await userOf(user);
  } catch (error) {
    showLogin(error.message);
    return;
  }
  me = user;
  setQuery("user", user);
  write($("my-name"), found.name);
  $("operate").hidden = user !== "ben";
  $("login").hidden = true;
  $("board").hidden = false;
  if (user === "ben") ask("GET", "rate").then(({ per_second }) => ($("rate").value = String(per_second ?? 10)));
  use(new URLSearchParams(location.search).get("via") === "sse" ? StreamLink : SocketLink);
}

$("leave").addEventListener("click", () => {
  link?.close();
  link = null;
  setQuery("user", null);
  showLogin();
});
$("by-sse").addEventListener("click", () => {
  const streams = $("by-sse").getAttribute("aria-checked") !== "true";
  setQuery("via", streams ? "sse" : null);
  use(streams ? StreamLink : SocketLink);
});
$("spike").addEventListener("click", () => ask("POST", "spike", {}));
$("rate").addEventListener("change", (event) => ask("PUT", "rate", { per_second: Number(event.target.value) }));

const wanted = new URLSearchParams(location.search).get("user");
if (wanted === null) showLogin();
else enter(wanted);
