/** Right uses of a typed client, and wrong ones: tsc fails where one of them is no error. */

import { connect, type Room, type State } from "../../../src/roomwire/client/js/roomwire.js";
import type {
  ClientEvents,
  MessageNew,
  Move,
  PageMessageNew,
  Rooms,
  SendMessage,
  Sent,
  ServerEvents,
} from "./contract.js";

const client = connect<ServerEvents, ClientEvents, Rooms>("/ws", { token: "t" });
const id: string = "7";
const chat = client.room(`chat:${id}`);
const general = client.room("chat:general");
const lobby = client.room("chat:lobby");
const board = client.room("board:1:2");
const state: State = client.state;

chat.on("message.new", (message: MessageNew) => message.from.length + message.tags["a"]!);
general.on("message.new", ({ at, mood, pet }) => {
  const day: string = at;
  const how: "good" | "bad" = mood;
  if (pet?.kind === "cat") return pet.kittens.map((kitten) => kitten.kind);
  return [day, how, pet?.place[1].toUpperCase()];
});
general.on("file.part", (part: Uint8Array) => part.byteLength);
general.on("cleared", (nothing: null) => nothing);
general.on("news", (page: PageMessageNew) => page.items[0]?.from);
general.on("room.state", ({ state }) => state?.map((message) => message.from));
general.on("presence.join", ({ user }) => user);
const sent: Sent = await general.send("message.send", { content: "hi", mood: "bad" });
const again: Sent = await chat.send("message.send", { content: "hi" } satisfies SendMessage, { id: "a" });
const length: number = await lobby.send("message.send", "shouted");
await board.send("board.move", { x: 1, y: 2 });
board.on("board.moved", ({ x }: Move) => x);
const nothing: null = await client.send("ping");
await client.send("upload", new Uint8Array([1]), { room: "chat:general" });
const went: boolean = general.notify("message.send", { content: "hi" });

/** A name that says nothing, and one of as many segments as no pattern has. */
const some: Room<ServerEvents, ClientEvents> = client.room(id);
const other: Room<ServerEvents, ClientEvents> = client.room("chat:general:more");

// @ts-expect-error  no such message
await general.send("message.sned", { content: "hi" });
// @ts-expect-error  the data has no such field
await general.send("message.send", { text: "hi" });
// @ts-expect-error  a field is missing
await general.send("message.send", {});
// @ts-expect-error  the data is missing
await general.send("message.send");
// @ts-expect-error  no such mood
await general.send("message.send", { content: "hi", mood: "so so" });
// @ts-expect-error  the ack is no text
const text: string = await general.send("message.send", { content: "hi" });
// @ts-expect-error  the more specific room takes a text
await lobby.send("message.send", { content: "hi" });
// @ts-expect-error  the message of other rooms
await general.send("board.move", { x: 1, y: 2 });
// @ts-expect-error  bytes are no text
await client.send("upload", "text");
// @ts-expect-error  no such event in this room
general.on("board.moved", () => {});
// @ts-expect-error  no such event at all
client.on("message.nwe", () => {});
// @ts-expect-error  the event has no such field
general.on("message.new", ({ sender }) => sender);
// @ts-expect-error  the state is a list
general.on("room.state", ({ state }) => state?.content);
// @ts-expect-error  nor is a notification anything
general.notify("message.send", { text: "hi" });

export { again, length, nothing, other, sent, some, state, text, went };
