/**
 * The JavaScript client of roomwire.v1, for browsers and (with a WebSocket class handed in) for Node 18 and later.
 *
 *     import { connect } from "/roomwire.js";
 *
 *     const client = connect("/ws", { token: async () => (await fetch("/token")).text() });
 *     const room = client.room("chat:general");
 *     room.on("message.new", (data, event) => show(data.content));
 *     await room.join({ state: true });
 *     await client.send("message.send", { content: "hello" }, { room: "chat:general" });
 *
 * What it promises (docs/reference/protocol.md, sections 5 to 7): events come in order, each once; after a lost link
 * every room says whether its replay is proven complete ("room.recovered") or gets its state anew ("room.state"); a
 * message takes effect once or its promise is rejected, with `unknown_outcome` where nobody can say which.
 *
 * Names of the client's own events begin with the protocol's reserved prefixes, so that no event of an application
 * can collide with them. From top to bottom: positions, frames, listeners, the outbox, rooms, the client.
 */

const SUBPROTOCOL = "roomwire.v1";

// Milliseconds, as everything in this file but for what the wire says in seconds.
const BACKOFF_FIRST = 1_000;
const BACKOFF_LONGEST = 30_000;
const HEALTHY_AFTER = 10_000;
const SILENCE_GRACE = 10_000;
const RESEND_MARGIN = 30_000;
const CONNECT_TIMEOUT = 20_000;
const PROBE_TIMEOUT = 5_000;
const REPLAY_REPORT_TIMEOUT = 1_000;
const LONGEST_TIMER = 2 ** 31 - 1; // beyond it setTimeout fires at once

const LONGEST_REQUEST_LINE = 6 * 1024; // bytes
const LONGEST_BINARY_HEADER = 4096; // bytes
// Within what a server's default limits take in one burst, so that coming back online does not break them.
const QUEUE_MESSAGES = 100;
const QUEUE_BYTES = 512 * 1024;

const FINAL_CLOSE_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009]);
const FINAL_STATUSES = {
  400: "bad_request",
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  426: "upgrade_required",
};
const NOT_ADMITTED = new Set(["forbidden", "too_many_rooms"]);
const PASSING_ERRORS = new Set(["unavailable", "rate_limited", "internal"]);

const EVENT_NAME = /^[A-Za-z0-9._:-]{1,128}$/;
const RESERVED_NAME = /^(room|session|presence)\.|^(ack|error|heartbeat)$/;
const MESSAGE_ID = /^[ -~]{1,64}$/;
const CLIENT_ID = /^[A-Za-z0-9_-]{8,64}$/;
const CONTROL_CHARACTER = /[\u0000-\u001f\u007f-\u009f]/;
const LONE_SURROGATE = /\p{Surrogate}/u;
// What a header can carry, and what a subprotocol can (RFC 9110 sections 5.5 and 5.6.2).
const TOKEN = /^[!-~](?:[ \t!-~]*[!-~])?$/;
const TOKEN_OF_SUBPROTOCOL = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const POSITION = /^([A-Za-z0-9]{1,24}):0*([0-9]{1,16})$/;

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true });

/** What a call or the whole client failed with; `code` is the server's word or the client's own. */
export class RoomwireError extends Error {
  constructor(code, message, details = undefined) {
    super(message);
    this.name = "RoomwireError";
    this.code = code;
    this.details = details;
  }
}

// --- positions (section 5) --------------------------------------------------------------------------------------

function parsePosition(text) {
  const match = typeof text === "string" ? POSITION.exec(text) : null;
  return match && { epoch: match[1], offset: match[2], text };
}

/** Whether `candidate` is news to who has all up to `position`. Offsets may pass 2**53, so they stay text. */
function isNews(candidate, position) {
  if (position === null || candidate.epoch !== position.epoch) return true;
  const [a, b] = [candidate.offset, position.offset];
  return a.length === b.length ? a > b : a.length > b.length;
}

function checkRoomName(name) {
  const usable = typeof name === "string" && name !== "" && !CONTROL_CHARACTER.test(name) && !LONE_SURROGATE.test(name);
  if (!usable || utf8.encode(name).length > 128) {
    throw new RoomwireError("invalid", "a room's name is 1 to 128 bytes of UTF-8 without control characters");
  }
}

// --- frames (section 2) -----------------------------------------------------------------------------------------

function encodeFrame(envelope, data) {
  if (!(data instanceof ArrayBuffer) && !ArrayBuffer.isView(data)) {
    const text = JSON.stringify(data === undefined ? envelope : { ...envelope, data });
    return { frame: text, size: utf8.encode(text).length };
  }
  const header = utf8.encode(JSON.stringify(envelope));
  const payload = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  const frame = new Uint8Array(4 + header.length + payload.length);
  new DataView(frame.buffer).setUint32(0, header.length);
  frame.set(header, 4);
  frame.set(payload, 4 + header.length);
  return { frame, size: frame.length };
}

function decodeFrame(raw) {
  let message;
  if (typeof raw === "string") {
    message = JSON.parse(raw);
  } else {
    const length = new DataView(raw).getUint32(0);
    if (length === 0 || length > LONGEST_BINARY_HEADER) throw new RangeError(`a binary header of ${length} bytes`);
    message = JSON.parse(fromUtf8.decode(new Uint8Array(raw, 4, length)));
    message.data = new Uint8Array(raw, 4 + length);
  }
  if (typeof message?.event !== "string") throw new TypeError("a message without an event");
  return message;
}

// --- listeners --------------------------------------------------------------------------------------------------

class Listeners {
  #handlers = new Map();

  add(event, handler) {
    if (typeof handler !== "function") throw new TypeError(`the handler of ${event} is not a function`);
    // Each registration is its own: the same function added twice is called twice and removed once.
    const entry = { handler };
    const entries = this.#handlers.get(event) ?? new Set();
    this.#handlers.set(event, entries.add(entry));
    return () => {
      entries.delete(entry);
      if (entries.size === 0 && this.#handlers.get(event) === entries) this.#handlers.delete(event);
    };
  }

  of(event) {
    return [...(this.#handlers.get(event) ?? []), ...(this.#handlers.get("*") ?? [])];
  }
}

// --- timers -----------------------------------------------------------------------------------------------------

/** Timers by name: arming one again replaces it. */
class Timers {
  #runtime;
  #armed = new Map();

  constructor(runtime) {
    this.#runtime = runtime;
  }

  arm(name, delay, callback) {
    this.disarm(name);
    const run = () => {
      this.#armed.delete(name);
      callback();
    };
    this.#armed.set(name, this.#runtime.setTimeout(run, Math.min(Math.max(0, delay), LONGEST_TIMER)));
  }

  disarm(name) {
    if (this.#armed.has(name)) this.#runtime.clearTimeout(this.#armed.get(name));
    this.#armed.delete(name);
  }

  disarmAll() {
    for (const name of [...this.#armed.keys()]) this.disarm(name);
  }
}

// --- the outbox: messages without a reply (sections 3 and 7) ----------------------------------------------------

class Outbox {
  #entries = new Map();
  #bytes = 0;
  #messages;
  #limit;

  constructor({ messages = QUEUE_MESSAGES, bytes = QUEUE_BYTES } = {}) {
    this.#messages = messages;
    this.#limit = bytes;
  }

  /** Sent messages count too: until their reply is here they may have to be sent again. */
  add(entry) {
    if (this.#entries.has(entry.id)) {
      throw new RoomwireError("invalid", `a message with the id ${entry.id} is under way`);
    }
    if (this.#entries.size >= this.#messages || this.#bytes + entry.size > this.#limit) {
      const text = `${this.#entries.size} messages of ${this.#bytes} bytes wait for their replies, the limits are`;
      throw new RoomwireError("queue_full", `${text} ${this.#messages} messages and ${this.#limit} bytes`);
    }
    this.#entries.set(entry.id, entry);
    this.#bytes += entry.size;
  }

  /** Takes a message out. */
  take(id) {
    const entry = this.#entries.get(id);
    if (entry !== undefined) {
      this.#entries.delete(id);
      this.#bytes -= entry.size;
    }
    return entry;
  }

  /** Takes out those first sent at `time` or before, and not over `link`. */
  takeSentUntil(time, link) {
    const old = this.unsentOver(link).filter((entry) => entry.sentAt !== null && entry.sentAt <= time);
    return old.map((entry) => this.take(entry.id));
  }

  takeAll() {
    return [...this.#entries.keys()].map((id) => this.take(id));
  }

  /** What has not been sent over `link`, in the order in which it was given to us. */
  unsentOver(link) {
    return [...this.#entries.values()].filter((entry) => entry.link !== link);
  }

  oldestSentAt() {
    const times = [...this.#entries.values()].filter((entry) => entry.sentAt !== null).map((entry) => entry.sentAt);
    return times.length === 0 ? null : Math.min(...times);
  }
}

// --- rooms ------------------------------------------------------------------------------------------------------

/** What the client knows of one room; `Room` is the part of it that applications see. */
class Membership {
  status = "out"; // "out", "joining" (asked, or to be asked again) or "in"
  wanted = null; // true: asked for; false: left, whatever the server may think; null: the server's decision
  wasIn = false; // in it when the link broke
  position = null;
  // A state was asked for or promised and is not here yet. Until it is, a position would lie: a resume from it could
  // be "proven" although the application never saw what came before. So such a room resumes by a new state.
  needsState = false;
  refreshing = false; // in the room, and its state was asked for over the link that is open now
  replay = null;
  operation = 0; // the number of the latest join or leave: replies to earlier ones are void
  joinAttempts = 0;
  deferred = null; // of the callers of join()
  members = new Map();
  listeners = new Listeners();

  constructor(name) {
    this.name = name;
  }

  reset(wanted) {
    this.status = "out";
    this.wanted = wanted;
    this.wasIn = this.needsState = this.refreshing = false;
    this.position = this.replay = null;
    this.operation += 1;
    this.joinAttempts = 0;
    this.members.clear();
  }

  get summary() {
    return { position: this.position?.text ?? null, recovered: null };
  }
}

/** One room; made by `client.room(name)`. */
export class Room {
  #membership;
  #actions;

  constructor(membership, actions) {
    this.#membership = membership;
    this.#actions = actions;
  }

  get name() {
    return this.#membership.name;
  }

  /** Whether the server says that this client is in the room, over the link that is open now. */
  get joined() {
    return this.#membership.status === "in";
  }

  /** The position up to which all events were handed over, `EPOCH:OFFSET`, or null. */
  get position() {
    return this.#membership.position?.text ?? null;
  }

  /** Who is in the room, cluster-wide: a live Map of user id to info. Empty where the room has no presence. */
  get members() {
    return this.#membership.members;
  }

  /** Call `handler(data, event)` for this room's events of that name, `"*"` for all; returns what ends it. */
  on(event, handler) {
    return this.#membership.listeners.add(event, handler);
  }

  /** Enter the room, now or as soon as there is a link. `state: true` asks for a "room.state" as well. */
  join(options = {}) {
    return this.#actions.join(this.#membership, options);
  }

  leave() {
    return this.#actions.leave(this.#membership);
  }

  send(event, data, options = {}) {
    return this.#actions.send(event, data, { ...options, room: this.name });
  }

  notify(event, data) {
    return this.#actions.notify(event, data, { room: this.name });
  }

  /** Ask the server who is in the room: `[{ user, info }]`. */
  async fetchMembers() {
    return (await this.#actions.query("room.members", this.name)).members;
  }
}

// --- the client -------------------------------------------------------------------------------------------------

const defaultRuntime = {
  // Not performance.now(): it may stand still while a device sleeps, and then a message would be sent again after the
  // server forgot its id.
  now: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, delay) => globalThis.setTimeout(callback, delay),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/** Open a client; it connects at once and goes on until `close()` or a final refusal. */
export function connect(url, options = {}) {
  return new Client(url, options);
}

/** One client of one user: a link, its rooms, and what waits to be sent. */
export class Client {
  #url;
  #options;
  #WebSocket;
  #runtime;
  #onerror;
  #listeners = new Listeners();
  #memberships = new Map();
  #rooms = new Map();
  #actions;
  #outbox;
  #system;
  #timers;
  #stopListening = [];
  #requests = new Map();
  #counter = 0;

  #state = "connecting";
  #socket = null;
  #link = 0; // the number of the latest attempt
  #attempts = 0; // since the last healthy link
  #notBefore = 0;
  #openedAt = null;
  #heardAt = 0;
  #welcome = null;
  #welcomed = false;
  #plan = null;
  #refusedToken = false;
  #closing = null;
  #error = null;

  constructor(url, options) {
    this.#url = absoluteUrl(url);
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (typeof this.#WebSocket !== "function") {
      throw new RoomwireError("invalid", "there is no WebSocket here; give one with the option WebSocket (npm: ws)");
    }
    this.#runtime = { ...defaultRuntime, ...options.runtime };
    this.#timers = new Timers(this.#runtime);
    this.#onerror = options.onerror ?? ((error) => console.error(error));
    this.#outbox = new Outbox(options.queue);
    // In memory only: a duplicated tab that copied it would take this tab's connection over, again and again.
    this.id = options.client ?? randomId(this.#runtime.random);
    if (!CLIENT_ID.test(this.id)) throw new RoomwireError("invalid", "a client id is 8 to 64 of A-Z a-z 0-9 _ -");
    this.#actions = {
      join: (membership, wish) => this.#join(membership, wish),
      leave: (membership) => this.#leave(membership),
      send: (event, data, address) => this.send(event, data, address),
      notify: (event, data, address) => this.notify(event, data, address),
      query: (event, room) => this.#query(event, room),
    };
    this.#system = new Map([
      ["session.welcome", (message) => this.#onWelcome(message)],
      ["session.closing", (message) => this.#onClosing(message)],
      ["heartbeat", (message) => this.#onHeartbeat(message)],
      ["ack", (message) => this.#onReply(message)],
      ["error", (message) => this.#onReply(message)],
      ["room.state", (message) => this.#onState(message)],
      ["room.joined", (message) => this.#onJoined(message)],
      ["room.removed", (message) => this.#onRemoved(message)],
      ["presence.state", (message) => this.#onPresence(message)],
      ["presence.join", (message) => this.#onPresence(message)],
      ["presence.leave", (message) => this.#onPresence(message)],
    ]);
    for (const name of options.rooms ?? []) this.#membership(name).wanted = true;
    this.#listenToBrowser();
    this.#attempt();
  }

  /** "connecting", "open" (welcomed, rooms resumed), "waiting" (for the next attempt) or "closed" (for good). */
  get state() {
    return this.#state;
  }

  /** Why the client gave up, or null. */
  get error() {
    return this.#error;
  }

  /** The user that the server took the token for, or null before the first welcome. */
  get user() {
    return this.#welcome?.user ?? null;
  }

  /** The server's name for the latest link, or null. */
  get session() {
    return this.#welcome?.session ?? null;
  }

  /** The rooms that this client is in, by name. */
  get rooms() {
    const joined = [...this.#memberships.values()].filter((membership) => membership.status === "in");
    return new Map(joined.map(({ name }) => [name, this.room(name)]));
  }

  /** The handle of a room, joined or not; the same object for the same name. */
  room(name) {
    const membership = this.#membership(name);
    const room = this.#rooms.get(name) ?? new Room(membership, this.#actions);
    this.#rooms.set(name, room);
    return room;
  }

  /** Call `handler(data, event)` for every event of that name, `"*"` for all; returns a function that ends it. */
  on(event, handler) {
    return this.#listeners.add(event, handler);
  }

  /** Resolves once the client is open; rejects if it is closed before. */
  whenOpen() {
    if (this.#state === "open") return Promise.resolve();
    if (this.#state === "closed") return Promise.reject(this.#closedError());
    return new Promise((resolve, reject) => {
      const stop = this.on("session.statechange", ({ state }) => {
        if (state !== "open" && state !== "closed") return;
        stop();
        if (state === "open") resolve();
        else reject(this.#closedError());
      });
    });
  }

  /**
   * Send a message; resolves with the `data` of its ack. `data` goes as JSON, or in a binary frame if it is an
   * ArrayBuffer or a view of one. Without a link it waits; over a lost link it is sent again with the same id.
   */
  send(event, data, { room, id } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#state === "closed") throw this.#closedError();
      if (id !== undefined && !(typeof id === "string" && MESSAGE_ID.test(id))) {
        throw new RoomwireError("invalid", "an id is 1 to 64 characters of printable ASCII");
      }
      const ref = id ?? this.#nextId();
      const encoded = this.#encode(event, data, room, ref);
      this.#outbox.add({ ...encoded, id: ref, room, link: 0, sentAt: null, resolve, reject });
      this.#flush();
    });
  }

  /** Send a message that nobody answers and that is not kept: false, and nothing sent, without a link. */
  notify(event, data, { room } = {}) {
    const { frame } = this.#encode(event, data, room, undefined);
    if (this.#state !== "open" || this.#memberships.get(room)?.status === "joining") return false;
    this.#socket.send(frame);
    return true;
  }

  /** Ask the server for the rooms of this connection: `{ ROOM: { position } }`. */
  async fetchRooms() {
    return (await this.#query("session.rooms")).rooms;
  }

  /** Do not wait for the next attempt any longer, unless the server asked for that time. */
  retryNow() {
    if (this.#state !== "waiting") return;
    const rest = this.#notBefore - this.#runtime.now();
    if (rest > 0) this.#timers.arm("retry", rest, () => this.#attempt());
    else this.#attempt();
  }

  /** For demonstrations: lose the link, and find none for `duration` milliseconds. */
  simulateOutage(duration) {
    if (this.#state === "closed") return;
    this.#notBefore = Math.max(this.#notBefore, this.#runtime.now() + duration);
    this.#lost(1006, "simulated outage");
  }

  /** Close for good. What waits for a reply is rejected. */
  close() {
    this.#finish(null);
  }

  // --- connecting (sections 1 and 7)

  async #attempt() {
    const link = ++this.#link;
    this.#timers.disarm("retry");
    this.#welcomed = false;
    this.#closing = null;
    this.#timers.arm("connect", CONNECT_TIMEOUT, () => this.#lost(1006, "no welcome in time"));
    this.#enter("connecting");
    let token;
    try {
      token = typeof this.#options.token === "function" ? await this.#options.token() : this.#options.token;
    } catch (error) {
      if (link !== this.#link) return;
      if (error instanceof RoomwireError && error.code === "unauthorized") {
        this.#finish(error);
      } else {
        this.#report(error);
        this.#lost(1006, "no token");
      }
      return;
    }
    if (link === this.#link && this.#state === "connecting") this.#open(token ?? null);
  }

  #open(token) {
    const fault = token === null ? null : tokenFault(token, this.#options.tokenVia);
    if (fault !== null) {
      this.#finish(new RoomwireError("invalid", fault));
      return;
    }
    this.#plan = this.#planOfResume(token);
    const protocols = [SUBPROTOCOL];
    if (token !== null && this.#options.tokenVia === "subprotocol") protocols.push(`bearer.${token}`);
    let socket;
    try {
      socket = new this.#WebSocket(this.#plan.url, protocols);
    } catch (error) {
      this.#finish(new RoomwireError("invalid", `this WebSocket cannot be made: ${error.message}`));
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    socket.onerror = () => {}; // a close follows
    // npm's ws tells the status of a refusal; a browser does not.
    socket.on?.("unexpected-response", (request, response) => {
      if (socket === this.#socket) this.#refused(response.statusCode, response.headers["retry-after"]);
    });
  }

  #planOfResume(token) {
    const url = new URL(this.#url);
    url.searchParams.set("client", this.id);
    if (token !== null && this.#options.tokenVia !== "subprotocol") url.searchParams.set("token", token);
    const returning = [...this.#memberships.values()].filter((membership) => membership.wanted || membership.wasIn);
    for (const membership of returning) {
      // Without a position nobody can say what was missed: only a new state can mend that.
      if (membership.wasIn && membership.position === null) membership.needsState = true;
    }
    const positions = returning
      .filter((membership) => membership.position !== null && !membership.needsState)
      .map((membership) => [membership.name, membership.position.text]);
    if (positions.length > 0) {
      const cursor = positions.map(([name, position]) => `${encodeURIComponent(name)}@${position}`).join(",");
      url.searchParams.set("last_event_id", cursor);
    }
    const firstLoad = Boolean(this.#options.state) && this.#welcome === null;
    const state = firstLoad || returning.some((membership) => membership.needsState);
    if (state) url.searchParams.set("state", "1");
    if (positions.length === 0 || requestLine(url).length <= LONGEST_REQUEST_LINE) {
      return { url: url.href, positions, state, later: false };
    }
    url.searchParams.set("last_event_id", "later");
    url.searchParams.delete("state"); // a resume brings no state that was asked for: those rooms are entered anew
    return { url: url.href, positions, state: false, later: true };
  }

  #refused(status, retryAfter) {
    const code = FINAL_STATUSES[status];
    const once = (status === 401 && !this.#refusedToken) || (status === 400 && this.#plan.positions.length > 0);
    if (code === undefined) {
      this.#lost(1006, `refused with ${status}`, retryDelay(retryAfter, this.#runtime.now()));
    } else if (once) {
      this.#release();
      if (status === 401) this.#refusedToken = true;
      else this.#forgetPositions();
      this.#attempt();
    } else {
      this.#finish(new RoomwireError(code, `the server refused the connection with ${status}`, { status }));
    }
  }

  #forgetPositions() {
    for (const membership of this.#memberships.values()) {
      if (membership.position !== null) membership.needsState = true;
      membership.position = null;
    }
  }

  /** The link is gone, or is given up. */
  #lost(code, reason = "", minimum = 0) {
    if (this.#state === "closed") return;
    const announced = this.#closing;
    // Where the close frame did not come through, the announcement says what it would have said.
    const effective = (code === 1005 || code === 1006) && announced !== null ? announced.code : code;
    const now = this.#runtime.now();
    if (this.#openedAt !== null && now - this.#openedAt >= HEALTHY_AFTER) this.#attempts = 0;
    this.#release();
    if (isFinal(effective)) {
      const text = `the server closed the connection for good: ${effective} ${reason}`.trimEnd();
      this.#finish(new RoomwireError("closed_by_server", text, { code: effective, reason }));
      return;
    }
    this.#notBefore = Math.max(this.#notBefore, now + Math.max(minimum, (announced?.retryAfter ?? 0) * 1000));
    const ceiling = Math.min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** this.#attempts);
    this.#attempts += 1;
    const delay = Math.max(this.#runtime.random() * ceiling, this.#notBefore - now);
    this.#timers.arm("retry", delay, () => this.#attempt());
    this.#armExpiry();
    this.#enter("waiting", { delay, code: effective, reason });
  }

  /** Let go of the socket and of all that depended on it. */
  #release() {
    const socket = this.#socket;
    this.#socket = this.#openedAt = null;
    this.#link += 1;
    this.#timers.disarmAll();
    for (const membership of this.#memberships.values()) {
      membership.wasIn ||= membership.status === "in";
      membership.status = "out";
      membership.refreshing = false;
      membership.replay = null;
      membership.operation += 1;
    }
    if (socket !== null) {
      socket.onmessage = socket.onclose = null;
      // A dead peer never answers a close frame, so ws, which can, cuts the link; one that closed by itself has none.
      if (typeof socket.terminate === "function") socket.terminate();
      else socket.close();
    }
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const { failed } of requests) failed(new RoomwireError("disconnected", "the link broke before the reply"));
  }

  /** The end of the client: by its user (no error) or by a refusal. */
  #finish(error) {
    if (this.#state === "closed") return;
    this.#error = error;
    const socket = this.#socket;
    if (socket !== null && socket.readyState === 1) {
      this.#socket = null;
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
    }
    for (const stop of this.#stopListening) stop();
    this.#state = "closed"; // before the promises are rejected: what they lead to finds a closed client
    this.#release();
    const reason = this.#closedError();
    this.#abandonMessages(reason);
    for (const membership of this.#memberships.values()) settle(membership, "reject", reason);
    this.#announce("session.statechange", { state: "closed", ...(error === null ? {} : { error }) });
  }

  #abandonMessages(error) {
    for (const entry of this.#outbox.takeAll()) entry.reject(entry.sentAt === null ? error : unknownOutcome(entry.id));
  }

  #closedError() {
    return this.#error ?? new RoomwireError("closed", "the client is closed");
  }

  // --- receiving (section 4)

  #receive(raw) {
    this.#heardAt = this.#runtime.now();
    let message;
    try {
      message = decodeFrame(raw);
    } catch (error) {
      this.#report(new RoomwireError("invalid", `a message from the server cannot be read: ${error.message}`));
      return;
    }
    if (!this.#welcomed && message.event !== "session.welcome" && message.event !== "session.closing") return;
    const handle = this.#system.get(message.event) ?? ((other) => this.#onEvent(other));
    try {
      handle(message);
    } catch (error) {
      this.#report(error, message); // the server broke the protocol: its message is lost, the client is not
    }
  }

  #onWelcome(message) {
    if (this.#welcomed) return;
    const welcome = message.data;
    if (this.#welcome !== null && this.#welcome.user !== welcome.user) {
      // What one user wrote is never sent in the name of the next one.
      this.#abandonMessages(new RoomwireError("user_changed", `the token is now that of ${welcome.user}`));
    }
    this.#welcome = welcome;
    this.#welcomed = true;
    this.#refusedToken = false;
    if (!this.#plan.later) {
      this.#resumed(message, welcome.rooms);
      return;
    }
    this.#request("session.resume", undefined, { rooms: Object.fromEntries(this.#plan.positions) }, {
      done: ({ rooms }) => this.#resumed(message, rooms),
      failed: (error) => {
        if (error.code === "disconnected") return;
        if (error.code === "invalid") this.#forgetPositions();
        this.#lost(1006, `not resumed: ${error.code}`);
      },
    });
  }

  #resumed(message, rooms) {
    const link = this.#link;
    const news = [];
    this.#timers.disarmAll();
    this.#openedAt = this.#heardAt;
    for (const [name, status] of Object.entries(rooms)) {
      const membership = this.#membership(name);
      if (membership.wanted === false) this.#request("room.leave", name, undefined, silent);
      else news.push(...this.#admit(membership, status, this.#plan.state));
      // join({ state: true }) was called too late for the handshake.
      if (membership.status === "in" && membership.needsState && !this.#plan.state && status.recovered !== false) {
        this.#askToJoin(membership);
      }
    }
    for (const membership of this.#memberships.values()) {
      if (membership.status === "out" && (membership.wanted || membership.wasIn)) this.#askToJoin(membership);
    }
    this.#watch(this.#silenceLimit());
    this.#deliver(message);
    if (link === this.#link) this.#enter("open");
    for (const [event, name, data] of news) if (link === this.#link) this.#announce(event, data, name);
    this.#flush();
  }

  #onClosing(message) {
    const { code, retry_after: seconds, positions } = message.data;
    this.#closing = { code, retryAfter: Number.isFinite(seconds) && seconds > 0 ? seconds : 0 };
    this.#takePositions(positions);
    this.#deliver(message);
  }

  #onHeartbeat({ data }) {
    this.#socket.send('{"event":"presence.heartbeat"}');
    this.#takePositions(data?.positions);
  }

  #takePositions(positions = {}) {
    for (const [name, text] of Object.entries(positions)) {
      const membership = this.#memberships.get(name);
      const position = parsePosition(text);
      if (membership?.status !== "in" || position === null || !isNews(position, membership.position)) continue;
      membership.position = position;
      this.#noteReplay(membership);
    }
  }

  #onReply(message) {
    const { event, id, data } = message;
    const error = event === "error" ? new RoomwireError(data.code, data.message, data.details) : null;
    const request = this.#requests.get(id);
    const entry = request === undefined ? this.#outbox.take(id) : undefined;
    if (request !== undefined) {
      this.#requests.delete(id);
      if (error === null) request.done(data);
      else request.failed(error);
    } else if (entry !== undefined) {
      if (error === null) entry.resolve(data);
      else entry.reject(error);
    } else if (id === undefined) {
      this.#deliver(message);
    }
  }

  #onEvent(message) {
    const membership = this.#memberships.get(message.room);
    if (this.#isVoid(membership)) return;
    const position = membership?.status === "in" ? parsePosition(message.id) : null;
    if (position === null) {
      this.#deliver(message);
      return;
    }
    if (!isNews(position, membership.position)) return;
    const link = this.#link;
    const { replay } = membership;
    if (replay !== null) {
      if (isNews(position, replay.target)) this.#reportReplay(membership);
      else replay.count += 1;
    }
    if (link !== this.#link) return; // a handler gave the link up: this event will be replayed
    membership.position = position;
    this.#deliver(message);
    if (link === this.#link) this.#noteReplay(membership);
  }

  #onState(message) {
    const membership = this.#membership(message.room);
    if (this.#isVoid(membership)) return;
    membership.position = parsePosition(message.id) ?? membership.position;
    membership.needsState = false;
    this.#deliver(message);
  }

  #onJoined(message) {
    const membership = this.#membership(message.room);
    membership.operation += 1; // a join under way is overtaken
    membership.wanted = null; // the server decided, whatever we wanted before
    const news = this.#admit(membership, message.data, false);
    this.#deliver(message);
    for (const [event, name, data] of news) this.#announce(event, data, name);
    this.#flush();
  }

  #onRemoved(message) {
    const membership = this.#membership(message.room);
    // While we are joining, the removal is of an earlier membership; to who is not in it any more, what asked for its
    // state is a join.
    if (membership.refreshing) membership.status = "joining";
    if (membership.status !== "joining") membership.reset(membership.wanted === false ? false : null);
    this.#deliver(message);
  }

  #onPresence(message) {
    const membership = this.#membership(message.room);
    if (this.#isVoid(membership)) return;
    const { event, data } = message;
    if (event === "presence.state") {
      membership.members.clear();
      for (const { user, info } of data.members) membership.members.set(user, info);
    } else if (event === "presence.join") {
      membership.members.set(data.user, data.info);
    } else {
      membership.members.delete(data.user);
    }
    this.#deliver(message);
  }

  /** Whether an event belongs to a membership that was left, or comes before the reply to its join. */
  #isVoid(membership) {
    return membership !== undefined && membership.status !== "in" && membership.wanted !== null;
  }

  // --- rooms (sections 3 and 5)

  #membership(name) {
    let membership = this.#memberships.get(name);
    if (membership === undefined) {
      checkRoomName(name);
      membership = new Membership(name);
      this.#memberships.set(name, membership);
    }
    return membership;
  }

  #join(membership, { state = false }) {
    if (this.#state === "closed") return Promise.reject(this.#closedError());
    membership.wanted = true;
    if (membership.status === "in" && !state) return Promise.resolve(membership.summary);
    membership.needsState ||= state;
    membership.deferred ??= defer();
    const { promise } = membership.deferred;
    if (this.#state === "open" && membership.status !== "joining") this.#askToJoin(membership);
    return promise;
  }

  #askToJoin(membership) {
    const data = {};
    const operation = ++membership.operation;
    const current = () => operation === membership.operation;
    if (membership.needsState) data.state = true;
    else if (membership.position !== null) data.since = membership.position.text;
    // Who is in the room stays in it, hears what goes on, and gets the state besides.
    if (membership.status === "in") membership.refreshing = true;
    else membership.status = "joining";
    this.#request("room.join", membership.name, data, {
      done: (status) => {
        if (!current()) return;
        membership.refreshing = false;
        if (membership.status !== "in") this.#onAdmission(membership, status, data.state === true);
        else settle(membership, "resolve", { position: status.position ?? null, recovered: null });
      },
      failed: (error) => current() && this.#onJoinFailure(membership, error),
    });
  }

  #onAdmission(membership, status, asked) {
    // join({ state: true }) was called while a join without it was on its way.
    const again = membership.needsState && !asked;
    for (const [event, name, data] of this.#admit(membership, status, asked)) this.#announce(event, data, name);
    if (again && membership.status === "in" && status.recovered !== false) this.#askToJoin(membership);
    this.#flush();
  }

  #onJoinFailure(membership, error) {
    membership.refreshing = false;
    if (PASSING_ERRORS.has(error.code)) {
      const ceiling = Math.min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** membership.joinAttempts);
      membership.joinAttempts += 1;
      const delay = this.#runtime.random() * ceiling;
      this.#timers.arm(`join ${membership.name}`, delay, () => this.#askToJoin(membership));
      return;
    }
    if (membership.status === "in") {
      settle(membership, "reject", error);
      return;
    }
    for (const [event, name, data] of this.#expel(membership, error)) this.#announce(event, data, name);
    this.#flush();
  }

  /** The server's word on a room, from a welcome, a resume or a join. Returns the events that tell of it. */
  #admit(membership, status, asked) {
    const { recovered, reason } = status;
    const position = parsePosition(status.position);
    if (position === null && NOT_ADMITTED.has(reason)) {
      const text = `the server does not let this client into ${membership.name}`;
      return this.#expel(membership, new RoomwireError(reason, text));
    }
    const { name, wasIn } = membership;
    membership.status = "in";
    membership.wasIn = false;
    membership.joinAttempts = 0;
    this.#timers.disarm(`join ${name}`);
    settle(membership, "resolve", { position: status.position ?? null, recovered: recovered ?? null, reason });
    if (recovered !== true) {
      // Also backwards. What `join({ state: true })` waits for stays wanted.
      membership.position = position;
      membership.needsState ||= recovered === false || asked;
      return wasIn ? [["room.recovered", name, { recovered: false, reason: reason ?? "no_cursor" }]] : [];
    }
    membership.position ??= position;
    if (!wasIn) return [];
    if (position === null || !isNews(position, membership.position)) {
      return [["room.recovered", name, { recovered: true, replayed: 0 }]];
    }
    membership.replay = { target: position, count: 0 };
    // The last events before the target may be ones from which this client is excluded: then none of them comes.
    this.#timers.arm(`replay ${name}`, REPLAY_REPORT_TIMEOUT, () => this.#reportReplay(membership));
    return [];
  }

  #noteReplay(membership) {
    const { replay, position } = membership;
    if (replay !== null && !isNews(replay.target, position)) this.#reportReplay(membership);
  }

  #reportReplay(membership) {
    const { name, replay } = membership;
    membership.replay = null;
    this.#timers.disarm(`replay ${name}`);
    this.#announce("room.recovered", { recovered: true, replayed: replay.count }, name);
  }

  /** A room that this client may not be in. Returns the events that tell of it. */
  #expel(membership, error) {
    const { name, wasIn, deferred } = membership;
    membership.reset(null);
    settle(membership, "reject", error);
    const news = wasIn ? [["room.recovered", name, { recovered: false, reason: error.code }]] : [];
    if (deferred === null) news.push(["room.removed", name, { reason: error.code }]);
    return news;
  }

  #leave(membership) {
    const { status, name } = membership;
    membership.reset(false);
    this.#timers.disarm(`join ${name}`);
    this.#timers.disarm(`replay ${name}`);
    settle(membership, "reject", new RoomwireError("left", `${name} was left before the join was answered`));
    if (this.#state !== "open" || status === "out") return Promise.resolve();
    this.#flush();
    return new Promise((resolve, reject) => {
      const gone = (error) => error.code === "disconnected" || error.code === "not_joined";
      this.#request("room.leave", name, undefined, {
        done: () => resolve(),
        failed: (error) => (gone(error) ? resolve() : reject(error)),
      });
    });
  }

  // --- sending (section 3)

  #encode(event, data, room, id) {
    if (typeof event !== "string" || !EVENT_NAME.test(event) || RESERVED_NAME.test(event)) {
      throw new RoomwireError("invalid", `an event is 1 to 128 of A-Z a-z 0-9 . _ : - and not reserved, not ${event}`);
    }
    if (room !== undefined) checkRoomName(room);
    let encoded;
    try {
      encoded = encodeFrame({ event, room, id }, data);
    } catch (error) {
      throw new RoomwireError("invalid", `the data of ${event} is no JSON: ${error.message}`);
    }
    this.#checkSize(encoded.size);
    return encoded;
  }

  /** A larger message would end the connection with 1009, for good. */
  #checkSize(size) {
    const limit = this.#welcome?.limits.max_message_size ?? Infinity;
    if (size > limit) throw new RoomwireError("too_big", `a message of ${size} bytes, and the server takes ${limit}`);
  }

  /** Send what this link has not seen yet, and what may be sent. */
  #flush() {
    if (this.#state !== "open") return;
    this.#expire();
    for (const entry of this.#outbox.unsentOver(this.#link)) {
      // A message overtakes none of its own room: while a room is being joined, all of its messages wait.
      if (this.#memberships.get(entry.room)?.status === "joining") continue;
      try {
        this.#checkSize(entry.size);
      } catch (error) {
        this.#outbox.take(entry.id).reject(error);
        continue;
      }
      entry.link = this.#link;
      entry.sentAt ??= this.#runtime.now();
      this.#socket.send(entry.frame);
    }
  }

  #resendWindow() {
    return (this.#welcome?.limits.idempotency_window ?? 0) * 1000 - RESEND_MARGIN;
  }

  /** Fails what was sent over an earlier link so long ago that the server may have forgotten its id. */
  #expire() {
    for (const entry of this.#outbox.takeSentUntil(this.#runtime.now() - this.#resendWindow(), this.#link)) {
      entry.reject(unknownOutcome(entry.id));
    }
  }

  #armExpiry() {
    const oldest = this.#outbox.oldestSentAt();
    if (oldest === null) return;
    this.#timers.arm("expiry", Math.max(0, oldest + this.#resendWindow() - this.#runtime.now()), () => {
      this.#expire();
      this.#armExpiry();
    });
  }

  /** A request of the connection itself: it is never sent again, and its callbacks run before the next message. */
  #request(event, room, data, callbacks) {
    if (this.#socket === null) {
      callbacks.failed(new RoomwireError("disconnected", `there is no link for ${event}`));
      return;
    }
    const id = this.#nextId();
    this.#requests.set(id, callbacks);
    this.#socket.send(JSON.stringify({ event, room, id, data }));
  }

  #query(event, room) {
    return new Promise((done, failed) => {
      if (this.#state !== "open") throw new RoomwireError("disconnected", `there is no link to ask for ${event}`);
      this.#request(event, room, undefined, { done, failed });
    });
  }

  #nextId() {
    this.#counter += 1;
    return `~${this.#counter.toString(36)}`;
  }

  // --- liveness

  #silenceLimit() {
    return this.#welcome.heartbeat.interval * 1000 + SILENCE_GRACE;
  }

  #watch(delay) {
    this.#timers.arm("silence", delay, () => {
      const rest = this.#heardAt + this.#silenceLimit() - this.#runtime.now();
      if (rest <= 0) this.#lost(1006, "the server is silent");
      else this.#watch(rest);
    });
  }

  /** The network changed: ask for a sign of life now, not at the next heartbeat. */
  #probe() {
    if (this.#state !== "open") return;
    const askedAt = this.#runtime.now();
    this.#request("presence.heartbeat", undefined, undefined, silent);
    this.#timers.arm("probe", PROBE_TIMEOUT, () => {
      if (this.#heardAt < askedAt) this.#lost(1006, "no answer over the changed network");
    });
  }

  #listenToBrowser() {
    const target = this.#options.window ?? globalThis.window;
    if (typeof target?.addEventListener !== "function") return;
    const online = () => {
      this.retryNow();
      this.#probe();
    };
    const offline = () => this.#probe();
    target.addEventListener("online", online);
    target.addEventListener("offline", offline);
    this.#stopListening.push(() => {
      target.removeEventListener("online", online);
      target.removeEventListener("offline", offline);
    });
  }

  // --- telling the application

  #enter(state, detail = {}) {
    const previous = this.#state;
    this.#state = state;
    if (state === "connecting" && previous === "connecting") return;
    this.#announce("session.statechange", { state, previous, ...detail });
  }

  #announce(event, data, room = undefined) {
    this.#deliver(room === undefined ? { event, data } : { event, room, data });
  }

  #deliver(event) {
    const ofRoom = this.#memberships.get(event.room)?.listeners.of(event.event) ?? [];
    for (const { handler } of [...ofRoom, ...this.#listeners.of(event.event)]) {
      try {
        const result = handler(event.data, event);
        if (typeof result?.then === "function") result.then(undefined, (error) => this.#report(error, event));
      } catch (error) {
        this.#report(error, event);
      }
    }
  }

  #report(error, event = null) {
    try {
      this.#onerror(error, event);
    } catch (second) {
      console.error(second);
    }
  }
}

// --- helpers ----------------------------------------------------------------------------------------------------

const silent = { done: () => {}, failed: () => {} };

function absoluteUrl(url) {
  const absolute = new URL(url, globalThis.location?.href);
  if (absolute.protocol === "http:") absolute.protocol = "ws:";
  if (absolute.protocol === "https:") absolute.protocol = "wss:";
  if (absolute.protocol !== "ws:" && absolute.protocol !== "wss:") {
    throw new RoomwireError("invalid", `${absolute.protocol} is no scheme of a WebSocket`);
  }
  absolute.hash = "";
  return absolute.href;
}

/** No secret: it means something only together with the user that a token proves. */
function randomId(random) {
  return Array.from({ length: 32 }, () => Math.floor(random() * 16).toString(16)).join("");
}

/** Why a token cannot be sent, or null. Not what it is: the browser's own error would repeat it. */
function tokenFault(token, via) {
  if (typeof token !== "string") return `the token is of type ${typeof token}, not string`;
  if (token === "") return "the token is empty";
  if (!TOKEN.test(token)) return "the token has a character that no header can carry (a newline at its end?)";
  if (via !== "subprotocol" || TOKEN_OF_SUBPROTOCOL.test(token)) return null;
  return "the token has a character that no subprotocol can carry";
}

function requestLine({ pathname, search }) {
  return `GET ${pathname}${search} HTTP/1.1\r\n`;
}

/** By range, so that a server can bring new codes (section 6). */
function isFinal(code) {
  return FINAL_CLOSE_CODES.has(code) || (code >= 4500 && code <= 4999);
}

/** Retry-After in milliseconds: seconds or a date (RFC 9110 section 10.2.3). */
function retryDelay(value, now) {
  const delay = /^\d+$/.test(value ?? "") ? Number(value) * 1000 : Date.parse(value) - now;
  return delay > 0 ? delay : 0;
}

function unknownOutcome(id) {
  return new RoomwireError("unknown_outcome", `the message ${id} was sent and no reply came; it may have taken effect`);
}

function defer() {
  const deferred = {};
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }));
  return deferred;
}

function settle(membership, how, value) {
  membership.deferred?.[how](value);
  membership.deferred = null;
}
