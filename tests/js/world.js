/** A world in which nothing happens by itself: its clock, its chance and its servers do what a test says. */

import assert from "node:assert/strict";

import { connect } from "../../src/roomwire/client/js/roomwire.js";

export const SECOND = 1_000;

/** What a server would say of itself; `rooms` and more can be given. */
export function welcomeData(changes = {}) {
  return {
    session: "s1",
    client: "c",
    user: "ann",
    heartbeat: { interval: 30, timeout: 90 },
    limits: { max_message_size: 65_536, max_event_size: 131_072, idempotency_window: 300 },
    rooms: {},
    ...changes,
  };
}

/** The server's end of one attempt of the client, and the client's WebSocket in one object. */
export class Socket {
  readyState = 0;
  sent = [];
  frames = [];
  #refusal = null;

  constructor(world, url, protocols) {
    this.world = world;
    this.url = new URL(url);
    this.protocols = protocols;
    this.query = Object.fromEntries(this.url.searchParams);
    if (world.kind === "node") {
      this.on = (event, handler) => {
        assert.equal(event, "unexpected-response");
        this.#refusal = handler;
      };
      this.terminate = () => this.close(1006);
    }
  }

  // --- what the client calls

  send(frame) {
    assert.equal(this.readyState, 1, "sent over a socket that is not open");
    this.frames.push(frame);
    this.sent.push(typeof frame === "string" ? JSON.parse(frame) : frame);
  }

  close(code) {
    if (this.readyState < 2) this.closedWith = code;
    this.readyState = 3;
  }

  // --- what the server does

  open() {
    this.readyState = 1;
    return this;
  }

  say(message) {
    assert.ok(this.onmessage, "the client listens no more");
    this.onmessage({ data: JSON.stringify(message) });
    return this;
  }

  sayRaw(data) {
    this.onmessage({ data });
    return this;
  }

  welcome(changes) {
    return this.open().say({ event: "session.welcome", data: welcomeData(changes) });
  }

  event(room, id, event = "message.new", data = null) {
    return this.say({ event, room, id, data });
  }

  ack(id, data = null) {
    return this.say({ event: "ack", id, data });
  }

  error(id, code, message = code) {
    return this.say({ event: "error", id, data: { code, message } });
  }

  drop(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  refuse(status, headers = {}) {
    assert.ok(this.#refusal, "this WebSocket tells no status");
    this.#refusal({}, { statusCode: status, headers });
  }

  /** The messages of one name that came, oldest first. */
  got(event) {
    return this.sent.filter((message) => message.event === event);
  }

  /** The only message of that name. */
  one(event) {
    const found = this.got(event);
    assert.equal(found.length, 1, `${found.length} messages ${event} came`);
    return found[0];
  }
}

export class World {
  now = 1_700_000_000_000;
  /** What `random` gives: with 0.5 a back-off of at most 2 s is one of 1 s. */
  chance = 0.5;
  sockets = [];
  errors = [];
  window = new EventTarget();
  #timers = new Map();
  #lastTimer = 0;

  constructor(kind = "browser") {
    this.kind = kind;
  }

  runtime() {
    return {
      now: () => this.now,
      random: () => this.chance,
      setTimeout: (callback, delay) => {
        this.#timers.set(++this.#lastTimer, { at: this.now + delay, callback });
        return this.#lastTimer;
      },
      clearTimeout: (timer) => this.#timers.delete(timer),
    };
  }

  get timers() {
    return this.#timers.size;
  }

  /** Let promises that can go on do so: an immediate runs after all microtasks. */
  settle() {
    return new Promise((resolve) => setImmediate(resolve));
  }

  /** Let time pass: every timer fires at its own time, in order. */
  async advance(duration) {
    const end = this.now + duration;
    for (;;) {
      await this.settle();
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) break;
      const [timer, { at, callback }] = due;
      this.#timers.delete(timer);
      this.now = Math.max(this.now, at);
      callback();
    }
    this.now = end;
    await this.settle();
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** A client of this world, and the record of its events: `[event, room, data]`. */
  client(options = {}) {
    const world = this;
    class WebSocket extends Socket {
      constructor(url, protocols) {
        super(world, url, protocols);
        world.sockets.push(this);
      }
    }
    const client = connect(options.url ?? "ws://server.test/ws", {
      token: "t",
      WebSocket,
      runtime: this.runtime(),
      window: this.window,
      onerror: (error, event) => this.errors.push({ error, event }),
      ...options,
    });
    client.log = [];
    client.on("*", (data, { event, room }) => client.log.push([event, room, data]));
    client.heard = (name) => client.log.filter(([event]) => event === name).map(([, , data]) => data);
    client.states = () => client.heard("session.statechange").map(({ state }) => state);
    return client;
  }

  /** A client whose link is open. */
  async open(welcome = {}, options = {}) {
    const client = this.client(options);
    await this.settle();
    this.socket.welcome(welcome);
    return client;
  }

  /** Break the link and let the next attempt begin; gives its socket. */
  async reconnect(code = 1006) {
    const before = this.sockets.length;
    this.socket.drop(code);
    for (let waits = 0; this.sockets.length === before; waits += 1) {
      assert.ok(waits < 60, "the client does not come back");
      await this.advance(SECOND / 2);
    }
    return this.socket;
  }
}

/** The code with which a promise is rejected. */
export async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    assert.equal(error.name, "RoomwireError", String(error.stack));
    return error.code;
  }
  return assert.fail("the promise was kept");
}

/** What became of a promise so far: "pending", "kept" or "broken". */
export async function stateOf(promise) {
  let state = "pending";
  promise.then(
    () => (state = "kept"),
    () => (state = "broken"),
  );
  await new Promise((resolve) => setImmediate(resolve));
  return state;
}
