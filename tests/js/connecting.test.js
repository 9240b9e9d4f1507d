/** Attempts, tokens, refusals, close codes, back-off, liveness (docs/reference/protocol.md, sections 1, 6 and 7). */

import assert from "node:assert/strict";
import { test } from "node:test";

import { RoomwireError, connect } from "../../src/roomwire/client/js/roomwire.js";
import { SECOND, World, codeOf, stateOf } from "./world.js";

test("the first attempt carries the token, the client id and the subprotocol", async () => {
  const world = new World();
  const client = world.client({ url: "https://server.test:8443/ws?shard=2#top", token: async () => "a+b" });
  assert.equal(client.state, "connecting");
  await world.settle();
  const { url, query, protocols } = world.socket;
  assert.equal(`${url.origin}${url.pathname}${url.hash}`, "wss://server.test:8443/ws");
  assert.deepEqual(query, { shard: "2", client: client.id, token: "a+b" });
  assert.match(client.id, /^[A-Za-z0-9_-]{8,64}$/);
  assert.deepEqual(protocols, ["roomwire.v1"]);
});

test("the token can travel as a subprotocol", async () => {
  const world = new World();
  const client = world.client({ tokenVia: "subprotocol" });
  await world.settle();
  assert.deepEqual(world.socket.protocols, ["roomwire.v1", "bearer.t"]);
  assert.deepEqual(world.socket.query, { client: client.id });
});

test("state=1 is asked for on the first load only", async () => {
  const world = new World();
  world.client({ state: true });
  await world.settle();
  assert.equal(world.socket.query.state, "1");
  await world.reconnect();
  assert.equal(world.socket.query.state, "1", "no page was loaded yet");
  world.socket.welcome();
  await world.reconnect();
  assert.equal(world.socket.query.state, undefined);
});

test("it is open once it is welcomed, not once it is connected", async () => {
  const world = new World();
  const client = world.client();
  await world.settle();
  const opened = client.whenOpen();
  world.socket.open();
  assert.equal(client.state, "connecting");
  world.socket.welcome();
  assert.equal(client.state, "open");
  assert.equal(client.user, "ann");
  assert.equal(client.session, "s1");
  await opened;
  await client.whenOpen();
});

test("the token's callback is called before every attempt and the client id stays", async () => {
  const world = new World();
  let calls = 0;
  const client = await world.open({}, { token: () => `t${++calls}` });
  const next = await world.reconnect();
  assert.equal(next.query.token, "t2");
  assert.equal(next.query.client, client.id);
});

test("a token's callback that fails is reported and tried again", async () => {
  const world = new World();
  const client = world.client({ token: () => Promise.reject(new Error("no network")) });
  await world.settle();
  assert.equal(client.state, "waiting");
  assert.equal(world.errors[0].error.message, "no network");
  assert.equal(world.sockets.length, 0);
});

test("a token's callback gives up by an error that says unauthorized", async () => {
  const world = new World();
  const token = () => Promise.reject(new RoomwireError("unauthorized", "log in again"));
  const client = world.client({ token });
  assert.equal(await codeOf(client.whenOpen()), "unauthorized");
  assert.equal(client.state, "closed");
  assert.equal(world.timers, 0);
});

for (const [what, token, via, text] of [
  ["is empty", "", "query", "the token is empty"],
  ["ends in a newline", "hunter2\n", "query", "the token has a character that no header can carry (a newline at its end?)"],
  ["is a page", "<!doctype html>\n<p>hunter2", "query", "the token has a character that no header can carry (a newline at its end?)"],
  ["is no text", { token: "hunter2" }, "query", "the token is of type object, not string"],
  ["has a slash", "hunter/2", "subprotocol", "the token has a character that no subprotocol can carry"],
]) {
  test(`a token that ${what} ends the client, which says so and not what it is`, async () => {
    for (const given of [token, async () => token]) {
      const world = new World();
      const client = world.client({ token: given, tokenVia: via });
      await assert.rejects(client.whenOpen(), { code: "invalid", message: text });
      assert.equal(client.state, "closed");
      assert.deepEqual([world.sockets.length, world.timers], [0, 0]);
    }
  });
}

test("a token that no subprotocol can carry can be in the query", async () => {
  const world = new World();
  world.client({ token: "a/b=" });
  await world.settle();
  assert.equal(world.socket.query.token, "a/b=");
});

test("a token that comes too late for its attempt is not used", async () => {
  const world = new World();
  const answers = [];
  world.client({ token: () => new Promise((resolve) => answers.push(resolve)) });
  await world.advance(25 * SECOND); // the attempt's time is over, the next one asks anew
  assert.equal(answers.length, 2);
  answers[0]("old");
  await world.settle();
  assert.equal(world.sockets.length, 0);
  answers[1]("new");
  await world.settle();
  assert.equal(world.socket.query.token, "new");
});

test("a token's failure that comes too late is not minded", async () => {
  const world = new World();
  const failures = [];
  const client = world.client({ token: () => new Promise((_, reject) => failures.push(reject)) });
  await world.advance(25 * SECOND);
  failures[0](new RoomwireError("unauthorized", "log in again"));
  await world.settle();
  assert.equal(client.state, "connecting");
});

test("back-off doubles from 1 s to 30 s with full jitter", async () => {
  const world = new World();
  const client = world.client();
  for (let n = 0; n < 7; n += 1) {
    await world.settle();
    world.socket.drop();
    await world.advance(client.heard("session.statechange").at(-1).delay);
  }
  const waits = client.heard("session.statechange").filter(({ state }) => state === "waiting");
  const delays = waits.map(({ delay }) => delay);
  assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  world.chance = 0;
  world.socket.drop();
  assert.equal(client.heard("session.statechange").at(-1).delay, 0, "full jitter begins at 0");
});

for (const [lived, delay] of [[9_999, 1000], [10_000, 500]]) {
  test(`after ${lived} ms of a link the next wait is ${delay} ms`, async () => {
    const world = new World();
    const client = world.client();
    await world.settle();
    world.socket.drop();
    await world.advance(500);
    world.socket.welcome();
    await world.advance(lived);
    world.socket.drop();
    assert.equal(client.heard("session.statechange").at(-1).delay, delay);
  });
}

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4699, 4999]) {
  test(`close code ${code} is final`, async () => {
    const world = new World();
    const client = await world.open();
    world.socket.drop(code, "because");
    assert.equal(client.state, "closed");
    assert.equal(client.error.code, "closed_by_server");
    assert.deepEqual(client.error.details, { code, reason: "because" });
    assert.equal(client.heard("session.statechange").at(-1).error, client.error);
    assert.equal(world.timers, 0);
  });
}

for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 3000, 4000, 4001, 4003, 4100, 4499]) {
  test(`close code ${code} is passing`, async () => {
    const world = new World();
    const client = await world.open();
    world.socket.drop(code);
    assert.equal(client.state, "waiting");
    assert.equal(client.heard("session.statechange").at(-1).code, code);
    await world.advance(SECOND);
    assert.equal(world.sockets.length, 2);
  });
}

test("retry_after of session.closing is waited for", async () => {
  const world = new World();
  const client = await world.open();
  const data = { code: 1012, reason: "restart", reconnect: true, retry_after: 7.5 };
  world.socket.say({ event: "session.closing", data });
  world.socket.drop(1012);
  assert.equal(client.heard("session.statechange").at(-1).delay, 7_500);
  client.retryNow();
  await world.advance(7_499);
  assert.equal(world.sockets.length, 1, "the server asked for that time");
  await world.advance(1);
  assert.equal(world.sockets.length, 2);
});

test("an absurd retry_after overflows no timer", async () => {
  const world = new World();
  await world.open();
  world.socket.say({ event: "session.closing", data: { code: 1012, reason: "", reconnect: true, retry_after: 1e12 } });
  world.socket.drop(1012);
  await world.advance(60 * SECOND);
  assert.equal(world.sockets.length, 1);
});

for (const lost of [1005, 1006]) {
  test(`an announced final close holds where its frame was lost (${lost})`, async () => {
    const world = new World();
    const client = await world.open();
    world.socket.say({ event: "session.closing", data: { code: 4501, reason: "", reconnect: false, retry_after: 0 } });
    world.socket.drop(lost);
    assert.equal(client.error.details.code, 4501);
  });
}

test("positions in session.closing are taken over", async () => {
  const world = new World();
  const client = await world.open({ rooms: { r: { position: "e:5", recovered: null } } });
  const data = { code: 1012, reason: "", reconnect: true, retry_after: 0, positions: { r: "e:9", unknown: "e:1" } };
  world.socket.say({ event: "session.closing", data });
  assert.equal(client.room("r").position, "e:9");
});

test("401: the token is asked for once more at once, then the client gives up", async () => {
  const world = new World("node");
  let calls = 0;
  const client = world.client({ token: () => `t${++calls}` });
  await world.settle();
  world.socket.refuse(401);
  await world.settle();
  assert.equal(world.socket.query.token, "t2");
  world.socket.refuse(401);
  assert.equal(client.state, "closed");
  assert.equal(client.error.code, "unauthorized");
  assert.equal(calls, 2);
});

test("401: a welcome in between gives a new chance", async () => {
  const world = new World("node");
  const client = world.client();
  await world.settle();
  world.socket.refuse(401);
  await world.settle();
  world.socket.welcome();
  await world.reconnect();
  world.socket.refuse(401);
  await world.settle();
  assert.equal(client.state, "connecting");
  assert.equal(world.sockets.length, 4);
});

test("400: once more without the cursor, then the client gives up", async () => {
  const world = new World("node");
  const client = await world.open({ rooms: { r: { position: "e:5", recovered: null } } });
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "r@e:5");
  world.socket.refuse(400);
  await world.settle();
  assert.equal(world.socket.query.last_event_id, undefined);
  assert.equal(world.socket.query.state, "1", "without a position only a state can mend the room");
  world.socket.refuse(400);
  assert.equal(client.error.code, "bad_request");
});

test("400 without a cursor is final at once", async () => {
  const world = new World("node");
  const client = world.client();
  await world.settle();
  world.socket.refuse(400);
  assert.equal(client.error.code, "bad_request");
});

for (const [status, code] of [[403, "forbidden"], [404, "not_found"], [426, "upgrade_required"]]) {
  test(`${status} is final`, async () => {
    const world = new World("node");
    const client = world.client();
    await world.settle();
    world.socket.refuse(status);
    assert.equal(client.error.code, code);
    assert.deepEqual(client.error.details, { status });
    assert.equal(world.socket.readyState, 3, "the refused socket is let go");
    assert.equal(world.timers, 0);
  });
}

test("a refusal that comes after its attempt was given up is not minded", async () => {
  const world = new World("node");
  const client = world.client();
  await world.advance(20 * SECOND);
  world.socket.refuse(403);
  assert.equal(client.state, "waiting");
});

test("429 and others wait at least Retry-After", async () => {
  const world = new World("node");
  const client = world.client();
  const delay = () => client.heard("session.statechange").at(-1).delay;
  await world.settle();
  world.socket.refuse(429, { "retry-after": "12" });
  assert.equal(delay(), 12_000);
  await world.advance(12_000);
  world.socket.refuse(503, { "retry-after": new Date(world.now + 40_000).toUTCString() });
  assert.equal(delay(), 40_000);
  await world.advance(40_000);
  world.socket.refuse(500);
  assert.equal(delay(), 2_000, "no Retry-After: back-off");
  await world.advance(2_000);
  world.socket.refuse(502, { "retry-after": "soon" });
  assert.equal(delay(), 4_000, "a header that cannot be read: back-off");
});

test("in a browser a failure before the opening is passing", async () => {
  const world = new World();
  const client = world.client();
  await world.settle();
  world.socket.drop(1006);
  assert.equal(client.state, "waiting");
});

test("a server that never welcomes is given up", async () => {
  const world = new World();
  const client = world.client();
  await world.settle();
  world.socket.open();
  await world.advance(20 * SECOND);
  assert.equal(client.state, "waiting");
  assert.equal(world.socket.readyState, 3);
});

test("what comes before the welcome, and a second welcome, are ignored", async () => {
  const world = new World();
  const client = world.client();
  await world.settle();
  world.socket.open().event("r", "e:1");
  assert.deepEqual(client.heard("message.new"), []);
  world.socket.welcome().welcome({ user: "eve" });
  assert.equal(client.user, "ann");
});

for (const kind of ["browser", "node"]) {
  test(`a silent server is left after interval + 10 s (${kind})`, async () => {
    const world = new World(kind);
    const client = await world.open();
    const first = world.socket;
    await world.advance(39_999);
    assert.equal(client.state, "open");
    world.socket.say({ event: "heartbeat", data: {} });
    await world.advance(39_999);
    assert.equal(client.state, "open", "any frame counts");
    await world.advance(1);
    assert.equal(client.state, "waiting");
    assert.equal(first.readyState, 3);
    assert.equal(first.onmessage, null);
  });
}

test("a heartbeat is answered and its positions are taken over", async () => {
  const world = new World();
  const client = await world.open({ rooms: { r: { position: "e:5", recovered: null } } });
  world.socket.say({ event: "heartbeat", data: { positions: { r: "e:7", other: "e:1" } } });
  assert.deepEqual(world.socket.sent, [{ event: "presence.heartbeat" }]);
  assert.equal(client.room("r").position, "e:7");
  world.socket.say({ event: "heartbeat", data: { positions: { r: "e:6" } } });
  assert.equal(client.room("r").position, "e:7", "never backwards within an epoch");
  world.socket.say({ event: "heartbeat" });
  assert.equal(world.socket.got("presence.heartbeat").length, 3);
});

test("the browser's online event cuts the wait short", async () => {
  const world = new World();
  const client = await world.open();
  world.socket.drop();
  world.window.dispatchEvent(new Event("online"));
  await world.settle();
  assert.equal(world.sockets.length, 2);
  assert.equal(client.state, "connecting");
});

for (const event of ["online", "offline"]) {
  test(`a link that does not survive the browser's ${event} event is found out in 5 s`, async () => {
    const world = new World();
    const client = await world.open();
    await world.advance(SECOND);
    world.window.dispatchEvent(new Event(event));
    world.socket.ack(world.socket.one("presence.heartbeat").id);
    await world.advance(5 * SECOND);
    assert.equal(client.state, "open");
    world.window.dispatchEvent(new Event(event));
    await world.advance(5 * SECOND);
    assert.equal(client.state, "waiting");
  });
}

test("close() is final, closes with 1000 and leaves nothing behind", async () => {
  const world = new World();
  const client = await world.open();
  client.close();
  client.close();
  assert.equal(client.state, "closed");
  assert.equal(client.error, null);
  assert.equal(world.socket.closedWith, 1000);
  assert.deepEqual(client.states(), ["open", "closed"]);
  world.window.dispatchEvent(new Event("online"));
  client.retryNow();
  client.simulateOutage(SECOND);
  await world.advance(60 * SECOND);
  assert.equal(world.sockets.length, 1);
  assert.equal(await codeOf(client.whenOpen()), "closed");
  assert.equal(await codeOf(client.send("a")), "closed");
  assert.equal(await codeOf(client.room("r").join()), "closed");
  assert.equal(client.notify("a"), false);
});

test("close() takes the client's ears off the browser", async () => {
  const world = new World();
  const ears = [];
  const window = {
    addEventListener: (event) => ears.push(event),
    removeEventListener: (event) => ears.splice(ears.indexOf(event), 1),
  };
  const client = await world.open({}, { window });
  assert.deepEqual(ears, ["online", "offline"]);
  client.close();
  assert.deepEqual(ears, []);
});

test("close() while a token is fetched opens no socket", async () => {
  const world = new World();
  const client = world.client({ token: async () => "t" });
  const opened = client.whenOpen();
  client.close();
  assert.equal(await codeOf(opened), "closed");
  await world.settle();
  assert.equal(world.sockets.length, 0);
  assert.equal(world.timers, 0);
});

test("an outage can be simulated", async () => {
  const world = new World();
  const client = await world.open();
  client.simulateOutage(5 * SECOND);
  assert.equal(client.state, "waiting");
  assert.equal(client.heard("session.statechange").at(-1).delay, 5 * SECOND);
  world.window.dispatchEvent(new Event("online"));
  await world.advance(5 * SECOND - 1);
  assert.equal(world.sockets.length, 1);
  await world.advance(1);
  assert.equal(world.sockets.length, 2);
});

test("a handler that throws, or rejects, breaks nothing and is reported", async () => {
  const world = new World();
  const client = await world.open();
  client.on("tick", () => {
    throw new Error("one");
  });
  client.on("tick", async () => {
    throw new Error("two");
  });
  const seen = [];
  client.on("tick", (data) => seen.push(data));
  world.socket.say({ event: "tick", data: 1 }).say({ event: "tick", data: 2 });
  await world.settle();
  assert.deepEqual(seen, [1, 2]);
  assert.deepEqual(world.errors.map(({ error }) => error.message).sort(), ["one", "one", "two", "two"]);
  assert.equal(world.errors[0].event.event, "tick");
});

test("a handler may close the client in the midst of its opening", async () => {
  const world = new World();
  const client = world.client({ rooms: ["r"] });
  client.on("session.welcome", () => client.close());
  await world.settle();
  world.socket.welcome();
  assert.equal(client.state, "closed");
  assert.deepEqual(client.states(), ["closed"]);
  assert.equal(world.timers, 0);
  assert.deepEqual(world.errors, []);
});

test("what cannot be read is reported and skipped", async () => {
  const world = new World();
  const client = await world.open();
  for (const raw of ["{", "null", '{"data":1}', new ArrayBuffer(2), new Uint8Array([0, 0, 0, 0]).buffer]) {
    world.socket.sayRaw(raw);
  }
  world.socket.say({ event: "presence.state", room: "r" });
  assert.equal(world.errors.length, 6);
  assert.equal(client.state, "open");
});

test("wrong arguments fail at once", async () => {
  const world = new World();
  const options = { WebSocket: class {}, runtime: world.runtime() };
  assert.throws(() => connect("ftp://server.test", options), { code: "invalid" });
  assert.throws(() => connect("not a url", options), TypeError);
  assert.throws(() => connect("ws://server.test", { ...options, client: "short" }), { code: "invalid" });
  assert.throws(() => connect("ws://server.test", { ...options, WebSocket: "ws" }), { code: "invalid" });
  assert.throws(() => connect("ws://server.test", { ...options, rooms: [""] }), { code: "invalid" });
  const client = await world.open();
  assert.throws(() => client.on("a", "b"), TypeError);
  assert.equal(await stateOf(client.whenOpen()), "kept");
});

test("a WebSocket that cannot be made is final", async () => {
  const world = new World();
  const client = world.client({
    WebSocket: class {
      constructor() {
        throw new Error("mixed content");
      }
    },
  });
  assert.equal(await codeOf(client.whenOpen()), "invalid");
});
