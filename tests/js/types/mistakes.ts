/** Wrong uses: tsc fails where one of them is no error. */

import { type Client, connect, RoomwireError } from "../../../src/roomwire/client/js/roomwire.js";

interface ChatEvents {
  "message.new": { from: string; content: string };
}

const chat: Client<ChatEvents> = connect<ChatEvents>("/ws", { token: "t" });
const room = chat.room("chat:general");

// @ts-expect-error  a token is a text, or gives one
connect("/ws", { token: 17 });
// @ts-expect-error  or a promise of one
connect("/ws", { token: async () => 17 });
// @ts-expect-error  no such way
connect("/ws", { tokenVia: "cookie" });
// @ts-expect-error  no such option
connect("/ws", { tokne: "t" });
// @ts-expect-error  an address is not optional
connect();
// @ts-expect-error  what is no WebSocket
connect("/ws", { WebSocket: EventTarget });
// @ts-expect-error  no such event
room.on("message.nwe", () => {});
// @ts-expect-error  the event has no such field
room.on("message.new", ({ text }) => text);
// @ts-expect-error  nor is its field a number
room.on("message.new", ({ content }) => content satisfies number);
// @ts-expect-error  the protocol's events have their own data
room.on("room.recovered", ({ replayed }) => replayed);
// @ts-expect-error  a handler is a function
chat.on("message.new", "handler");
// @ts-expect-error  the state is asked for with a boolean
await room.join({ state: "yes" });
// @ts-expect-error  a room's own messages go to it
await room.send("message.send", {}, { room: "chat:random" });
// @ts-expect-error  what a handler returned is unknown until it is said
const sent = (await room.send("message.send", {})).id;
// @ts-expect-error  no promise
const went: Promise<boolean> = room.notify("typing");
// @ts-expect-error  for reading
chat.state = "open";
// @ts-expect-error  no such state
if (chat.state === "connected") chat.close();
// @ts-expect-error  the members are kept by the client
room.members.clear();
// @ts-expect-error  an error has a code
new RoomwireError();

export { sent, went };
