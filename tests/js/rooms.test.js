/** Joins, positions, resumes, states, presence (docs/reference/protocol.md, sections 3 to 5). */

import assert from "node:assert/strict";
import { test } from "node:test";

import { SECOND, World, codeOf, stateOf } from "./world.js";

const entered = (position) => ({ position, recovered: null });
const allOf = (names, value) => Object.fromEntries(names.map((name) => [name, value]));
const inRoom = { rooms: { r: entered("e:5") } };

// --- entering and leaving

test("join asks, and resolves with the position", async () => {
  const world = new World();
  const client = await world.open();
  const joined = client.room("r").join();
  const { id } = world.socket.one("room.join");
  assert.deepEqual(world.socket.sent, [{ event: "room.join", room: "r", id, data: {} }]);
  assert.equal(client.room("r").joined, false);
  world.socket.ack(id, { position: "e:5", recovered: null });
  assert.deepEqual(await joined, { position: "e:5", recovered: null, reason: undefined });
  assert.equal(client.room("r").joined, true);
  assert.equal(client.room("r").position, "e:5");
  assert.deepEqual([...client.rooms.keys()], ["r"]);
  assert.deepEqual(await client.room("r").join(), { position: "e:5", recovered: null }, "in the room already");
  assert.equal(world.socket.got("room.join").length, 1);
  assert.deepEqual(client.heard("room.recovered"), [], "nothing was lost, nothing to recover");
});

test("events that follow the reply in the same read are not missed", async () => {
  const world = new World();
  const client = await world.open();
  client.room("r").join({ state: true });
  const { id, data } = world.socket.one("room.join");
  assert.deepEqual(data, { state: true });
  world.socket
    .ack(id, { position: "e:5", recovered: null })
    .say({ event: "room.state", room: "r", id: "e:5", data: { reason: "requested", state: [1] } })
    .event("r", "e:6");
  assert.deepEqual(client.heard("room.state"), [{ reason: "requested", state: [1] }]);
  assert.equal(client.heard("message.new").length, 1);
});

test("callers of one join share it; a wish for the state is added to it", async () => {
  const world = new World();
  const client = await world.open();
  const both = [client.room("r").join(), client.room("r").join({ state: true })];
  world.socket.ack(world.socket.one("room.join").id, { position: "e:5", recovered: null });
  await Promise.all(both);
  assert.deepEqual(world.socket.sent.map(({ event, data }) => [event, data]), [
    ["room.join", {}],
    ["room.join", { state: true }],
  ]);
});

test("join({ state: true }) in a room stays in it, and the state comes besides", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const room = client.room("r");
  world.socket.say({ event: "presence.state", room: "r", data: { members: [{ user: "bob", info: 1 }] } });
  const joined = room.join({ state: true });
  assert.deepEqual(world.socket.sent.map(({ event, data }) => [event, data]), [["room.join", { state: true }]]);
  const { id } = world.socket.one("room.join");
  world.socket.event("r", "e:6");
  assert.equal(client.heard("message.new").length, 1, "events go on");
  world.socket.ack(id, { position: "e:6", recovered: null });
  assert.deepEqual(await joined, { position: "e:6", recovered: null });
  assert.deepEqual([room.joined, room.members.get("bob")], [true, 1]);
  world.socket.event("r", "e:7");
  world.socket.say({ event: "room.state", room: "r", id: "e:6", data: { reason: "requested", state: ["x"] } });
  world.socket.event("r", "e:7");
  assert.equal(client.heard("message.new").length, 3, "what is beyond the state follows on it again");
  assert.equal(room.position, "e:7");
});

test("a state that was asked for in a room and did not come is asked for with the next link", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const joined = client.room("r").join({ state: true });
  world.socket.event("r", "e:6");
  await world.reconnect();
  assert.deepEqual([world.socket.query.state, world.socket.query.last_event_id], ["1", undefined]);
  world.socket.welcome(inRoom);
  assert.deepEqual(await joined, { position: "e:5", recovered: null, reason: undefined });
});

test("a state that is refused in a room leaves everything as it was", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const joined = client.room("r").join({ state: true });
  world.socket.error(world.socket.one("room.join").id, "app.busy");
  await assert.rejects(joined, { code: "app.busy" });
  assert.equal(client.room("r").joined, true);
});

test("to who was taken out meanwhile, what asked for the state is a join", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const joined = client.room("r").join({ state: true });
  const { id } = world.socket.one("room.join");
  world.socket.say({ event: "room.removed", room: "r", data: { reason: "bye" } });
  assert.equal(client.room("r").joined, false);
  world.socket.ack(id, { position: "e:9", recovered: null });
  await joined;
  assert.deepEqual([client.room("r").joined, client.room("r").position], [true, "e:9"]);
});

for (const code of ["forbidden", "too_many_rooms", "conflict"]) {
  test(`a join refused with ${code} fails to its caller`, async () => {
    const world = new World();
    const client = await world.open();
    const joined = client.room("r").join();
    world.socket.error(world.socket.one("room.join").id, code);
    assert.equal(await codeOf(joined), code);
    assert.equal(client.room("r").joined, false);
    await world.reconnect();
    world.socket.welcome();
    assert.deepEqual(world.socket.got("room.join"), [], "it is not tried again");
  });
}

for (const code of ["unavailable", "rate_limited", "internal"]) {
  test(`a join that fails with ${code} is tried again with back-off`, async () => {
    const world = new World();
    const client = await world.open();
    const joined = client.room("r").join();
    for (const [n, delay] of [500, 1000, 2000].entries()) {
      world.socket.error(world.socket.got("room.join")[n].id, code);
      await world.advance(delay - 1);
      assert.equal(world.socket.got("room.join").length, n + 1);
      await world.advance(1);
      assert.equal(world.socket.got("room.join").length, n + 2);
    }
    world.socket.ack(world.socket.got("room.join")[3].id, { position: "e:1", recovered: null });
    assert.equal((await joined).position, "e:1");
  });
}

test("join while offline is kept until there is a link", async () => {
  const world = new World();
  const client = world.client();
  const joined = client.room("r").join();
  await world.settle();
  assert.equal(world.socket.query.last_event_id, undefined);
  world.socket.welcome();
  world.socket.ack(world.socket.one("room.join").id, { position: "e:1", recovered: null });
  await joined;
});

test("a join that the welcome answers is not asked again", async () => {
  const world = new World();
  const client = world.client();
  const joined = client.room("r").join();
  await world.settle();
  world.socket.welcome(inRoom);
  assert.equal((await joined).position, "e:5");
  assert.deepEqual(world.socket.sent, []);
});

test("a wish for the state that was too late for the handshake is sent after the welcome", async () => {
  const world = new World();
  const client = world.client();
  await world.settle();
  client.room("r").join({ state: true });
  assert.equal(world.socket.query.state, undefined);
  world.socket.welcome(inRoom);
  assert.equal(world.socket.sent.length, 1);
  assert.deepEqual(world.socket.one("room.join").data, { state: true });
});

test("the option rooms enters them; a refusal is told as room.removed", async () => {
  const world = new World();
  const client = await world.open({}, { rooms: ["r"] });
  world.socket.error(world.socket.one("room.join").id, "forbidden");
  assert.deepEqual(client.log.at(-1), ["room.removed", "r", { reason: "forbidden" }]);
});

test("a join that the link's end cut off is asked anew, not resent", async () => {
  const world = new World();
  const client = await world.open();
  const joined = client.room("r").join();
  const first = world.socket.one("room.join").id;
  await world.reconnect();
  world.socket.welcome();
  const second = world.socket.one("room.join").id;
  assert.notEqual(first, second);
  assert.equal(await stateOf(joined), "pending");
  world.socket.ack(second, { position: "e:1", recovered: null });
  await joined;
});

test("leave asks, and what still comes is dropped", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const room = client.room("r");
  const left = room.leave();
  assert.equal(room.joined, false);
  assert.equal(room.position, null);
  world.socket.event("r", "e:6").event("r", undefined, "typing");
  world.socket.say({ event: "presence.join", room: "r", data: { user: "bob", info: null } });
  world.socket.say({ event: "room.state", room: "r", id: "e:6", data: { reason: "fork", state: null } });
  world.socket.ack(world.socket.one("room.leave").id);
  await left;
  assert.deepEqual(client.log.map(([event]) => event), ["session.welcome", "session.statechange"]);
  assert.equal(room.members.size, 0);
});

test("leave and join again: events of the former membership are dropped", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const room = client.room("r");
  const left = room.leave();
  const joined = room.join();
  const { id, data } = world.socket.one("room.join");
  assert.deepEqual(data, {}, "who left has no position to resume from");
  world.socket.event("r", "e:6").say({ event: "room.removed", room: "r", data: { reason: "kicked" } });
  world.socket.ack(world.socket.one("room.leave").id).ack(id, { position: "e:7", recovered: null }).event("r", "e:8");
  await Promise.all([left, joined]);
  assert.equal(client.heard("message.new").length, 1);
  assert.equal(room.position, "e:8");
});

test("leave ends a join under way, and a leave without a link needs no reply", async () => {
  const world = new World();
  const client = await world.open();
  const joined = client.room("r").join();
  const left = client.room("r").leave();
  assert.equal(await codeOf(joined), "left");
  world.socket.ack(world.socket.one("room.join").id, { position: "e:1", recovered: null });
  assert.equal(client.room("r").joined, false);
  await world.reconnect();
  await left;
  await client.room("r").leave();
  world.socket.welcome();
  assert.deepEqual(world.socket.sent, []);
});

for (const [code, fate] of [["not_joined", "kept"], ["rate_limited", "broken"]]) {
  test(`a leave that fails with ${code} is ${fate}`, async () => {
    const world = new World();
    const client = await world.open(inRoom);
    const left = client.room("r").leave();
    world.socket.error(world.socket.one("room.leave").id, code);
    assert.equal(await stateOf(left), fate);
  });
}

test("a room that was left is left again where the server puts the client in", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  client.room("r").leave();
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, undefined);
  world.socket.welcome(inRoom);
  assert.equal(world.socket.one("room.leave").room, "r");
  assert.equal(client.room("r").joined, false);
});

test("a room that was left stays left when the server's removal crosses the leave", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  client.room("r").leave();
  world.socket.say({ event: "room.removed", room: "r", data: { reason: "kicked" } });
  await world.reconnect();
  world.socket.welcome(inRoom);
  assert.equal(world.socket.one("room.leave").room, "r");
});

test("the server puts the client into a room, and takes it out", async () => {
  const world = new World();
  const client = await world.open();
  world.socket.say({ event: "room.joined", room: "r", data: { position: "e:3", recovered: null } });
  assert.equal(client.room("r").joined, true);
  assert.equal(client.room("r").position, "e:3");
  world.socket.say({ event: "presence.state", room: "r", data: { members: [{ user: "bob", info: 1 }] } });
  world.socket.say({ event: "room.removed", room: "r", data: { reason: "kicked" } });
  assert.deepEqual(client.heard("room.removed"), [{ reason: "kicked" }]);
  assert.equal(client.room("r").joined, false);
  assert.equal(client.room("r").members.size, 0);
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, undefined, "and stays out");
});

test("room.joined overtakes a join under way", async () => {
  const world = new World();
  const client = await world.open();
  const joined = client.room("r").join();
  world.socket.say({ event: "room.joined", room: "r", data: { position: "e:3", recovered: null } });
  assert.equal((await joined).position, "e:3");
  world.socket.event("r", "e:4");
  world.socket.error(world.socket.one("room.join").id, "conflict");
  assert.equal(client.room("r").joined, true);
  assert.equal(client.room("r").position, "e:4");
});

test("room names are checked", async () => {
  const world = new World();
  const client = await world.open();
  for (const name of ["", "a\nb", "\ud800", "ü".repeat(65), 7, undefined]) {
    assert.throws(() => client.room(name), { code: "invalid" });
  }
  const name = "ü".repeat(64);
  assert.equal(client.room(name), client.room(name));
  assert.equal(client.room(name).name, name);
});

// --- events and positions

test("a room's events come once, in order, and move its position", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const ids = [];
  client.room("r").on("message.new", (data, event) => ids.push(event.id));
  for (const id of ["e:5", "e:6", "e:6", "e:4", "e:10", "e:9", "f:1", "f:1", "f:2"]) world.socket.event("r", id);
  assert.deepEqual(ids, ["e:6", "e:10", "f:1", "f:2"]);
  assert.equal(client.room("r").position, "f:2");
});

test("offsets beyond 2**53 are told apart, and leading zeros count nothing", async () => {
  const world = new World();
  const client = await world.open({ rooms: { r: { position: "e:9999999999999997", recovered: null } } });
  for (const id of ["e:9999999999999998", "e:9999999999999999", "e:9999999999999998"]) world.socket.event("r", id);
  assert.equal(client.heard("message.new").length, 2);
  world.socket.event("r", "z:1").event("r", "z:0000000000000001").event("r", "z:0000000000000002");
  assert.equal(client.heard("message.new").length, 4);
});

test("ephemeral events and events of no room are handed over and move nothing", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  world.socket.say({ event: "typing", room: "r", data: { from: "bob" } }).say({ event: "tick", data: 1 });
  world.socket.say({ event: "direct", room: "other", data: 2 });
  const heard = [["typing", "r", { from: "bob" }], ["tick", undefined, 1], ["direct", "other", 2]];
  assert.deepEqual(client.log.slice(-3), heard);
  assert.equal(client.room("r").position, "e:5");
});

test("handlers of a room hear that room only, and can be taken away", async () => {
  const world = new World();
  const client = await world.open({ rooms: { r: { recovered: null }, q: { recovered: null } } });
  const heard = [];
  const stop = client.room("r").on("message.new", (data) => heard.push(data));
  const stopAll = client.room("r").on("*", (data, { event }) => heard.push(event));
  world.socket.event("r", "e:1", "message.new", 1).event("q", "e:1", "message.new", 2);
  stop();
  stop();
  stopAll();
  world.socket.event("r", "e:2", "message.new", 3);
  assert.deepEqual(heard, [1, "message.new"]);
});

test("presence is kept as a map", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const { members } = client.room("r");
  const presence = (event, data) => world.socket.say({ event: `presence.${event}`, room: "r", data });
  presence("state", { members: [{ user: "ann", info: null }, { user: "bob", info: { away: true } }] });
  presence("join", { user: "cid", info: 1 });
  presence("leave", { user: "ann", info: null });
  assert.deepEqual([...members], [["bob", { away: true }], ["cid", 1]]);
  presence("state", { members: [{ user: "ann", info: 2 }] });
  assert.deepEqual([...members], [["ann", 2]]);
  assert.equal(client.heard("presence.state").length, 2);
});

// --- resuming

test("a reconnect carries a cursor of all rooms, encoded twice", async () => {
  const world = new World();
  await world.open({ rooms: { "chat:a,b@ü": entered("e:5"), q: entered("f:1") } });
  world.socket.event("q", "f:2");
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "chat%3Aa%2Cb%40%C3%BC@e:5,q@f:2");
  assert.match(world.socket.url.search, /last_event_id=chat%253Aa%252Cb%2540%25C3%25BC%40e%3A5%2Cq%40f%3A2/);
  assert.equal(world.socket.query.state, undefined);
});

test("a proven replay is told once it is complete, with its number of events", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { position: "e:8", recovered: true } } });
  assert.equal(client.room("r").position, "e:5", "the replay is still to come");
  world.socket.event("r", "e:5").event("r", "e:6").event("r", "e:7");
  assert.deepEqual(client.heard("room.recovered"), []);
  world.socket.event("r", "e:8").event("r", "e:9");
  assert.deepEqual(client.heard("room.recovered"), [{ recovered: true, replayed: 3 }]);
  const order = client.log.slice(-3).map(([event]) => event);
  assert.deepEqual(order, ["message.new", "room.recovered", "message.new"]);
  await world.advance(5 * SECOND);
  assert.equal(client.heard("room.recovered").length, 1);
});

test("an event is not handed over once a handler gave the link up, but replayed", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { position: "e:8", recovered: true } } });
  client.on("room.recovered", () => client.simulateOutage(SECOND));
  world.socket.event("r", "e:9");
  assert.deepEqual(client.heard("message.new"), []);
  await world.advance(5 * SECOND);
  assert.equal(world.socket.query.last_event_id, "r@e:5");
});

test("a first load that broke before its states came asks for them again", async () => {
  const world = new World();
  await world.open(inRoom, { state: true });
  await world.reconnect();
  assert.equal(world.socket.query.state, "1");
  assert.equal(world.socket.query.last_event_id, undefined);
});

test("a resume that missed nothing says so at once", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { position: "e:5", recovered: true } } });
  assert.deepEqual(client.heard("room.recovered"), [{ recovered: true, replayed: 0 }]);
});

test("a replay whose last events were excluded is told by what comes next, a heartbeat or time", async () => {
  const target = { rooms: { r: { position: "e:8", recovered: true } } };
  const endings = [
    [(world) => world.socket.event("r", "e:9"), 2],
    [(world) => world.socket.say({ event: "heartbeat", data: { positions: { r: "e:8" } } }), 2],
    [(world) => world.advance(SECOND), 2],
  ];
  for (const [end, replayed] of endings) {
    const world = new World();
    const client = await world.open(inRoom);
    await world.reconnect();
    world.socket.welcome(target).event("r", "e:6").event("r", "e:7");
    assert.deepEqual(client.heard("room.recovered"), []);
    await end(world);
    assert.deepEqual(client.heard("room.recovered"), [{ recovered: true, replayed }]);
  }
});

test("a replay that was cut off goes on from where it came to", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { position: "e:8", recovered: true } } }).event("r", "e:6");
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "r@e:6");
  await world.advance(SECOND);
  assert.deepEqual(client.heard("room.recovered"), [], "nothing was proven yet");
});

for (const reason of ["too_old", "epoch", "fork", "too_far", "no_history"]) {
  test(`recovered: false (${reason}) replaces the position, and room.state does so too`, async () => {
    const world = new World();
    const client = await world.open(inRoom);
    await world.reconnect();
    world.socket.welcome({ rooms: { r: { position: "e:3", recovered: false, reason } } });
    assert.equal(client.room("r").position, "e:3", "also backwards");
    assert.deepEqual(client.heard("room.recovered"), [{ recovered: false, reason }]);
    world.socket.say({ event: "room.state", room: "r", id: "e:2", data: { reason, state: ["all"] } });
    assert.equal(client.room("r").position, "e:2");
    world.socket.event("r", "e:3");
    assert.equal(client.heard("message.new").length, 1);
    await world.reconnect();
    assert.equal(world.socket.query.last_event_id, "r@e:3");
  });
}

test("until the promised state is here a room resumes by a state, never by a position", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { position: "e:9", recovered: false, reason: "too_old" } } }).event("r", "e:10");
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, undefined, "a replay from e:10 would hide what came before e:9");
  assert.equal(world.socket.query.state, "1");
  world.socket.welcome();
  const { id, data } = world.socket.one("room.join");
  assert.deepEqual(data, { state: true });
  world.socket.ack(id, { position: "e:11", recovered: null });
  assert.deepEqual(client.heard("room.recovered").at(-1), { recovered: false, reason: "no_cursor" });
});

test("unavailable: in the room, without a position, until the state comes", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome({ rooms: { r: { recovered: false, reason: "unavailable" } } });
  assert.equal(client.room("r").joined, true);
  assert.equal(client.room("r").position, null);
  world.socket.say({ event: "room.state", room: "r", id: "e:12", data: { reason: "unavailable", state: null } });
  assert.equal(client.room("r").position, "e:12");
});

for (const reason of ["forbidden", "too_many_rooms"]) {
  test(`a resume refused with ${reason} ends the membership`, async () => {
    const world = new World();
    const client = await world.open(inRoom);
    await world.reconnect();
    world.socket.welcome({ rooms: { r: { recovered: false, reason } } });
    assert.deepEqual(client.log.slice(-2), [
      ["room.recovered", "r", { recovered: false, reason }],
      ["room.removed", "r", { reason }],
    ]);
    assert.equal(client.room("r").joined, false);
    await world.reconnect();
    assert.equal(world.socket.query.last_event_id, undefined);
    world.socket.welcome();
    assert.deepEqual(world.socket.sent, []);
  });
}

test("a room without a position is entered anew with its state", async () => {
  const world = new World();
  const client = await world.open({ rooms: { r: { recovered: null } } });
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, undefined);
  assert.equal(world.socket.query.state, "1");
  world.socket.welcome();
  assert.deepEqual(world.socket.one("room.join").data, { state: true });
  assert.equal(client.state, "open");
});

test("a room that the welcome passes over is joined since its position", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  await world.reconnect();
  world.socket.welcome();
  const { id, data } = world.socket.one("room.join");
  assert.deepEqual(data, { since: "e:5" });
  world.socket.ack(id, { position: "e:6", recovered: true }).event("r", "e:6");
  assert.deepEqual(client.heard("room.recovered"), [{ recovered: true, replayed: 1 }]);
});

test("a cursor too long for the request line is sent by session.resume", async () => {
  const world = new World();
  const names = Array.from({ length: 60 }, (_, n) => `${"ü".repeat(30)}${n}`);
  const rooms = allOf(names, entered("e:1"));
  const client = await world.open({ rooms });
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "later");
  const waiting = client.send("message.send", 1);
  world.socket.welcome();
  assert.equal(client.state, "connecting", "not before the resume");
  const { id, data, event } = world.socket.sent[0];
  assert.equal(event, "session.resume");
  assert.deepEqual(data, { rooms: allOf(names, "e:1") });
  assert.equal(world.socket.sent.length, 1);
  world.socket.ack(id, { rooms: allOf(names, { position: "e:1", recovered: true }) });
  assert.equal(client.state, "open");
  assert.equal(client.heard("room.recovered").length, 60);
  world.socket.ack(world.socket.one("message.send").id, 2);
  assert.equal(await waiting, 2);
});

test("with such a cursor no state comes, so who needs one asks for it", async () => {
  const world = new World();
  const names = Array.from({ length: 100 }, (_, n) => `${"x".repeat(100)}${n}`);
  const rooms = allOf(names, entered("e:1"));
  await world.open({ rooms: { ...rooms, auto: { recovered: null } } }, { state: false });
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "later");
  assert.equal(world.socket.query.state, undefined);
  world.socket.welcome();
  world.socket.ack(world.socket.one("session.resume").id, { rooms: { auto: { position: "e:1", recovered: null } } });
  assert.deepEqual(world.socket.got("room.leave"), []);
  assert.deepEqual(world.socket.got("room.join").find(({ room }) => room === "auto").data, { state: true });
});

test("the request line stays within 6 KiB, and up to there it carries the cursor", async () => {
  const line = ({ pathname, search }) => `GET ${pathname}${search} HTTP/1.1\r\n`.length;
  const name = "x".repeat(100);
  const seen = new Set();
  for (const length of [64, 65, 66, 67, 68]) {
    const world = new World();
    const names = [...Array.from({ length: 53 }, (_, n) => `${name}${n + 10}`), "y".repeat(length)];
    await world.open({ rooms: allOf(names, entered("e:1")) });
    await world.reconnect();
    const { url, query } = world.socket;
    const whole = new URL(url);
    whole.searchParams.set("last_event_id", names.map((each) => `${each}@e:1`).join(","));
    assert.equal(query.last_event_id === "later", line(whole) > 6144, `${line(whole)} bytes`);
    seen.add(line(whole));
  }
  assert.ok(seen.has(6144) && seen.has(6145), `the edge was not tried: ${[...seen]}`);
});

test("a resume that fails is tried again; a cursor that is invalid is given up", async () => {
  const world = new World();
  const names = Array.from({ length: 100 }, (_, n) => `${"x".repeat(100)}${n}`);
  const rooms = allOf(names, entered("e:1"));
  const client = await world.open({ rooms });
  await world.reconnect();
  world.socket.welcome().error(world.socket.one("session.resume").id, "unavailable");
  assert.equal(client.state, "waiting");
  await world.advance(5 * SECOND);
  assert.equal(world.socket.query.last_event_id, "later");
  world.socket.welcome().error(world.socket.one("session.resume").id, "invalid");
  assert.equal(client.state, "waiting");
  await world.advance(10 * SECOND);
  assert.equal(world.socket.query.last_event_id, undefined);
  assert.equal(world.socket.query.state, "1");
});

test("a resume that the link's end cut off is made anew", async () => {
  const world = new World();
  const names = Array.from({ length: 100 }, (_, n) => `${"x".repeat(100)}${n}`);
  const client = await world.open({ rooms: allOf(names, entered("e:1")) });
  await world.reconnect();
  world.socket.welcome();
  await world.reconnect();
  assert.equal(world.socket.query.last_event_id, "later");
  assert.equal(client.state, "connecting");
});

// --- queries

test("members and rooms can be asked for", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const members = client.room("r").fetchMembers();
  const rooms = client.fetchRooms();
  world.socket.ack(world.socket.one("room.members").id, { members: [{ user: "ann", info: null }] });
  world.socket.ack(world.socket.one("session.rooms").id, { rooms: { r: { position: "e:5" } } });
  assert.deepEqual(await members, [{ user: "ann", info: null }]);
  assert.deepEqual(await rooms, { r: { position: "e:5" } });
  const cut = client.fetchRooms();
  world.socket.drop();
  assert.equal(await codeOf(cut), "disconnected");
  assert.equal(await codeOf(client.fetchRooms()), "disconnected");
});
