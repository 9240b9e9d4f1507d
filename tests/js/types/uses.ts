/** Right uses of the module, as tsc sees them at its strictest. */

import { WebSocket as NpmWebSocket } from "ws";

import {
  Client,
  connect,
  type JoinResult,
  type Member,
  type Recovery,
  type Room,
  RoomwireError,
  type State,
  type WebSocketClass,
} from "../../../src/roomwire/client/js/roomwire.js";

interface Message {
  from: string;
  content: string;
}

/** An interface, which has no index signature, and a type will both do for a map of events. */
interface ChatEvents {
  "message.new": Message;
  typing: { from: string };
  drawn: Uint8Array;
}

const chat = connect<ChatEvents>("/ws", {
  token: async () => (await fetch("/token")).text(),
  tokenVia: "subprotocol",
  rooms: ["chat:general"],
  state: true,
  queue: { messages: 10 },
  onerror: (error, event) => console.error(error, event?.room),
});
const general: Room<ChatEvents> = chat.room("chat:general");

const stop: () => void = general.on("message.new", (message, { id, room, user }) => {
  const text: string = message.from + message.content;
  const all: (string | undefined)[] = [id, room, user, text];
  return all;
});
stop();
general.on("drawn", (bytes) => new Blob([new Uint8Array(bytes)]));
general.on("room.state", ({ reason, state }) => [reason satisfies string, state satisfies unknown]);
general.on("room.recovered", (recovery: Recovery) => (recovery.recovered ? recovery.replayed : recovery.reason));
general.on("presence.state", ({ members }) => members.map(({ user }: Member) => user));
general.on("*", (data: unknown, { event }) => [event satisfies string, data]);
chat.on("session.statechange", ({ state, delay, error }) => {
  const name: State = state;
  const seconds: number = (delay ?? 0) / 1000;
  return [name, seconds, error?.code];
});
chat.on("session.welcome", ({ heartbeat, rooms }) => [heartbeat.interval, rooms["chat:general"]?.position]);
chat.on("session.closing", ({ retry_after: seconds }) => seconds satisfies number);

const joined: JoinResult = await general.join({ state: true });
const sent: { id: string } = await general.send<{ id: string }>("message.send", { content: "hi" });
const size: number = await chat.send<number>("draw", new Uint8Array([1]), { room: "chat:general", id: "d1" });
const went: boolean = general.notify("typing", {});
const position: string | null = general.position ?? joined.position;
const here: Member[] = await general.fetchMembers();
const known: ReadonlyMap<string, unknown> = general.members;
const rooms: Record<string, { position?: string }> = await chat.fetchRooms();
await general.leave();
await chat.whenOpen();
chat.retryNow();
chat.simulateOutage(5_000);
chat.close();
const who: [string, State, string | null, string | null] = [chat.id, chat.state, chat.user, chat.session];
const every: Room<ChatEvents>[] = [...chat.rooms.values()];

try {
  await chat.send("message.send");
} catch (error) {
  if (!(error instanceof RoomwireError)) throw error;
  if (error.code === "unknown_outcome" || error.code === "app.too_late") console.log(error.details);
}

/** The class that a page has, the one that npm's ws has, and a client that is made of its class. */
const classes: WebSocketClass[] = [WebSocket, NpmWebSocket];
const url = new URL("wss://chat.example/ws");
const clients = classes.map((each) => new Client<ChatEvents>(url, { WebSocket: each, token: () => null }));
const untyped = connect("wss://chat.example/ws");
untyped.on("anything", (data: unknown) => data);

export { clients, every, here, known, position, rooms, sent, size, went, who };
