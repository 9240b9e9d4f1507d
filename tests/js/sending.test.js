/** Messages, their replies, the queue, and what a lost link does to them (sections 2, 3 and 7). */

import assert from "node:assert/strict";
import { test } from "node:test";

import { SECOND, World, codeOf, stateOf } from "./world.js";

const inRoom = { rooms: { r: { position: "e:5", recovered: null } } };

test("a message bears an id and resolves with the data of its ack", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const sent = client.send("message.send", { content: "hi" }, { room: "r" });
  const message = world.socket.one("message.send");
  assert.match(message.id, /^[ -~]{1,64}$/);
  assert.deepEqual(message, { event: "message.send", room: "r", id: message.id, data: { content: "hi" } });
  world.socket.ack("another").ack(message.id, { id: "e:6" }).ack(message.id, "twice");
  assert.deepEqual(await sent, { id: "e:6" });
});

test("absent data and room are left out", async () => {
  const world = new World();
  const client = await world.open();
  client.send("ping", undefined, { id: "mine" });
  assert.deepEqual(world.socket.sent, [{ event: "ping", id: "mine" }]);
});

test("an error rejects with the server's code and details", async () => {
  const world = new World();
  const client = await world.open();
  const sent = client.send("ping");
  const data = { code: "invalid", message: "no such", details: [{ field: "content" }] };
  world.socket.say({ event: "error", id: world.socket.one("ping").id, data });
  await assert.rejects(sent, { name: "RoomwireError", ...data });
});

test("an error that answers nothing is an event", async () => {
  const world = new World();
  const client = await world.open();
  world.socket.say({ event: "error", data: { code: "invalid", message: "m" } });
  world.socket.error("unknown", "internal");
  assert.deepEqual(client.heard("error"), [{ code: "invalid", message: "m" }]);
});

test("bytes go and come in binary frames", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const source = new Uint8Array([9, 1, 2, 3, 9]);
  const sent = client.send("file.part", source.subarray(1, 4), { room: "r", id: "b" });
  const [frame] = world.socket.frames;
  const header = '{"event":"file.part","room":"r","id":"b"}';
  assert.deepEqual([...frame.subarray(0, 4)], [0, 0, 0, header.length]);
  assert.equal(new TextDecoder().decode(frame.subarray(4, 4 + header.length)), header);
  assert.deepEqual([...frame.subarray(4 + header.length)], [1, 2, 3]);
  world.socket.ack("b");
  await sent;

  client.send("file.part", source.buffer, { id: "c" });
  assert.deepEqual([...world.socket.frames[1].subarray(-5)], [9, 1, 2, 3, 9]);

  const inbound = new TextEncoder().encode('....{"event":"file.new","room":"r","id":"e:6"}!?');
  new DataView(inbound.buffer).setUint32(0, inbound.length - 6);
  world.socket.sayRaw(inbound.buffer);
  assert.deepEqual([...client.heard("file.new")[0]], [33, 63]);
  assert.equal(client.room("r").position, "e:6");
});

test("wrong messages are refused before they are sent", async () => {
  const world = new World();
  const client = await world.open();
  const circle = {};
  circle.self = circle;
  for (const event of ["", "a b", "x".repeat(129), 7, "room.join", "session.x", "presence.heartbeat", "ack", "error"]) {
    assert.equal(await codeOf(client.send(event)), "invalid", String(event));
  }
  assert.equal(await codeOf(client.send("a", circle)), "invalid");
  assert.equal(await codeOf(client.send("a", 1n)), "invalid");
  assert.equal(await codeOf(client.send("a", null, { room: "" })), "invalid");
  for (const id of ["", "ü", "x".repeat(65), 7]) assert.equal(await codeOf(client.send("a", null, { id })), "invalid");
  client.send("a", null, { id: "1" });
  assert.equal(await codeOf(client.send("a", null, { id: "1" })), "invalid");
  assert.throws(() => client.notify("ack"), { code: "invalid" });
  assert.equal(world.socket.sent.length, 1);
});

test("a message over the server's limit would end the link, so it is not sent", async () => {
  const world = new World();
  const limits = { max_message_size: 100, max_event_size: 100, idempotency_window: 300 };
  const client = world.client();
  const early = client.send("a", "x".repeat(200));
  await world.settle();
  world.socket.welcome({ limits });
  assert.equal(await codeOf(early), "too_big");
  const envelope = '{"event":"a","id":"1","data":""}'.length;
  assert.equal(await codeOf(client.send("a", "ü".repeat(50), { id: "1" })), "too_big");
  assert.throws(() => client.notify("a", "x".repeat(100)), { code: "too_big" });
  client.send("a", "x".repeat(100 - envelope), { id: "1" });
  assert.equal(world.socket.frames[0].length, 100);
});

test("messages wait for the link and go out in order, after the resume, with their ids", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  world.socket.drop();
  const first = client.send("a", 1, { id: "1" });
  client.send("a", 2, { id: "2" });
  await world.advance(SECOND);
  world.socket.open();
  assert.deepEqual(world.socket.sent, []);
  world.socket.welcome({ rooms: { r: { position: "e:5", recovered: true } } });
  assert.deepEqual(world.socket.sent.map(({ id }) => id), ["1", "2"]);
  world.socket.ack("1");
  await first;
});

test("messages of a room wait until it is entered, others do not", async () => {
  const world = new World();
  const client = await world.open();
  client.room("r").join();
  client.send("a", 1, { room: "r" });
  client.send("b", 2, { room: "q" });
  client.send("a", 3, { room: "r" });
  assert.equal(client.notify("typing", null, { room: "r" }), false);
  assert.deepEqual(world.socket.sent.map(({ event }) => event), ["room.join", "b"]);
  world.socket.ack(world.socket.one("room.join").id, { position: "e:1", recovered: null });
  assert.deepEqual(world.socket.got("a").map(({ data }) => data), [1, 3]);
});

test("messages of a room go out when the join fails, or is given up", async () => {
  const world = new World();
  const client = await world.open();
  client.room("r").join().catch(() => {});
  client.room("q").join().catch(() => {});
  client.send("a", 1, { room: "r" });
  client.send("a", 2, { room: "q" });
  world.socket.error(world.socket.got("room.join")[0].id, "forbidden");
  assert.equal(world.socket.got("a").length, 1);
  client.room("q").leave();
  assert.deepEqual(world.socket.sent.map(({ event }) => event), ["room.join", "room.join", "a", "a", "room.leave"]);
});

test("a message without a reply is sent again with the same id, and only that", async () => {
  const world = new World();
  const client = await world.open();
  client.send("a", 1, { id: "1" });
  client.send("a", 2, { id: "2" });
  world.socket.ack("1");
  const [frame] = world.socket.frames.slice(1);
  await world.reconnect();
  const late = client.send("a", 3, { id: "3" });
  world.socket.welcome();
  assert.deepEqual(world.socket.sent.map(({ id }) => id), ["2", "3"]);
  assert.equal(world.socket.frames[0], frame, "the very same message");
  world.socket.ack("3", "done");
  assert.equal(await late, "done");
});

test("requests of the connection are not sent again", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const members = codeOf(client.room("r").fetchMembers());
  const left = client.room("r").leave();
  await world.reconnect();
  assert.equal(await members, "disconnected");
  await left;
  world.socket.welcome();
  assert.deepEqual(world.socket.sent, []);
});

test("a message is sent again until 30 s before the server may forget its id", async () => {
  for (const [age, expected] of [[269_999, 1], [270_000, 0]]) {
    const world = new World();
    const client = await world.open();
    const sent = client.send("a", 1);
    const pending = stateOf(sent);
    assert.equal(await pending, "pending");
    client.simulateOutage(age);
    await world.advance(age);
    world.socket.welcome();
    assert.equal(world.socket.got("a").length, expected, `after ${age} ms`);
    if (expected === 0) assert.equal(await codeOf(sent), "unknown_outcome");
  }
});

test("the first sending counts, not the latest", async () => {
  const world = new World();
  const client = await world.open();
  const sent = client.send("a", 1);
  client.simulateOutage(200 * SECOND);
  await world.advance(200 * SECOND);
  world.socket.welcome();
  assert.equal(world.socket.got("a").length, 1);
  client.simulateOutage(200 * SECOND);
  assert.equal(await stateOf(sent), "pending");
  await world.advance(69_999);
  assert.equal(await stateOf(sent), "pending");
  await world.advance(1);
  assert.equal(await codeOf(sent), "unknown_outcome", "told as soon as it is certain, not at the next link");
});

test("a message that was never sent waits as long as it takes", async () => {
  const world = new World();
  const client = await world.open();
  client.simulateOutage(3600 * SECOND);
  const sent = client.send("a", 1);
  await world.advance(3600 * SECOND);
  world.socket.welcome();
  world.socket.ack(world.socket.one("a").id, 2);
  assert.equal(await sent, 2);
});

test("a slow reply over a link that holds is no unknown outcome", async () => {
  const world = new World();
  const client = await world.open();
  const sent = client.send("a", 1);
  for (let n = 0; n < 12; n += 1) {
    await world.advance(30 * SECOND);
    world.socket.say({ event: "heartbeat", data: {} });
  }
  client.send("b");
  world.socket.ack(world.socket.one("a").id, "late");
  assert.equal(await sent, "late");
});

test("the queue is bounded in messages, those under way included", async () => {
  const world = new World();
  const client = await world.open({}, { queue: { messages: 2 } });
  client.send("a", 1, { id: "1" });
  world.socket.drop();
  client.send("a", 2, { id: "2" });
  assert.equal(await codeOf(client.send("a", 3, { id: "3" })), "queue_full");
  await world.advance(SECOND);
  world.socket.welcome().ack("1");
  client.send("a", 3, { id: "3" });
  assert.deepEqual(world.socket.sent.map(({ id }) => id), ["1", "2", "3"]);
});

test("the queue is bounded in bytes", async () => {
  const world = new World();
  const frame = '{"event":"a","id":"1","data":"xxxx"}';
  const client = world.client({ queue: { bytes: 2 * frame.length } });
  client.send("a", "xxxx", { id: "1" });
  client.send("a", "xxxx", { id: "2" });
  assert.equal(await codeOf(client.send("a", null, { id: "3" })), "queue_full");
  await world.settle();
  world.socket.welcome().ack("1");
  client.send("a", "xxxx", { id: "3" });
  assert.deepEqual(world.socket.sent.map(({ id }) => id), ["1", "2", "3"]);
});

test("the default bounds are 100 messages and 524288 bytes", async () => {
  const world = new World();
  const client = world.client();
  for (let n = 0; n < 100; n += 1) client.send("a");
  assert.equal(await codeOf(client.send("a")), "queue_full");
  const other = world.client();
  for (let n = 0; n < 8; n += 1) other.send("a", "x".repeat(65_000));
  assert.equal(await codeOf(other.send("a", "x".repeat(65_000))), "queue_full");
});

test("close() rejects: closed what was not sent, unknown_outcome what was", async () => {
  const world = new World();
  const client = await world.open();
  client.room("r").join().catch(() => {});
  const sent = client.send("a");
  const held = client.send("a", null, { room: "r" });
  const asked = client.fetchRooms();
  client.close();
  assert.equal(await codeOf(sent), "unknown_outcome");
  assert.equal(await codeOf(held), "closed");
  assert.equal(await codeOf(asked), "disconnected");
});

test("a final refusal rejects what waits with its cause", async () => {
  const world = new World("node");
  const client = world.client();
  const sent = client.send("a");
  const joined = client.room("r").join();
  await world.settle();
  world.socket.refuse(403);
  assert.equal(await codeOf(sent), "forbidden");
  assert.equal(await codeOf(joined), "forbidden");
});

test("what one user wrote is not sent in another's name", async () => {
  const world = new World();
  const client = await world.open();
  const sent = client.send("a", 1);
  world.socket.drop();
  const held = client.send("a", 2);
  await world.advance(SECOND);
  world.socket.welcome({ user: "eve" });
  assert.deepEqual(world.socket.sent, []);
  assert.equal(await codeOf(sent), "unknown_outcome");
  assert.equal(await codeOf(held), "user_changed");
  assert.equal(client.user, "eve");
});

test("notify sends without an id, and nothing without a link", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  assert.equal(client.room("r").notify("typing", {}), true);
  assert.deepEqual(world.socket.sent, [{ event: "typing", room: "r", data: {} }]);
  world.socket.drop();
  assert.equal(client.notify("typing"), false);
  await world.advance(SECOND);
  world.socket.welcome();
  assert.deepEqual(world.socket.sent.filter(({ event }) => event === "typing"), []);
});

test("room.send addresses its room", async () => {
  const world = new World();
  const client = await world.open(inRoom);
  const sent = client.room("r").send("a", 1, { id: "1" });
  assert.deepEqual(world.socket.sent, [{ event: "a", room: "r", id: "1", data: 1 }]);
  world.socket.ack("1", 2);
  assert.equal(await sent, 2);
});
