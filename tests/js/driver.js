/**
 * The client over real sockets, driven from outside: commands come as JSON lines on stdin, each `{ id, do, ... }`, and
 * go out as JSON lines on stdout, `{ id, result }` or `{ id, error: { code, message } }` for a command and
 * `{ event, room, data, ... }` for an event. tests/js/node_client.py is the other end.
 */

import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";

import { WebSocket } from "ws";

import { connect } from "../../src/roomwire/client/js/roomwire.js";

let client = null;
let tokens = [null]; // one for each attempt, the last one for all further ones
let way = Promise.resolve(); // to the server: no attempt gets further than it
let clear = () => {};

function print(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

const plain = (data) => (data instanceof Uint8Array ? { bytes: Buffer.from(data).toString("base64") } : data);
const roomState = ({ position, members }) => ({ position, members: Object.fromEntries(members) });
const fault = ({ code = "thrown", message, details }) => ({ code, message, details });

const commands = {
  connect({ url, options }) {
    tokens = options.tokens ?? [options.token ?? null];
    const token = async () => {
      await way;
      return tokens.length > 1 ? tokens.shift() : tokens[0];
    };
    const onerror = (error) => print({ event: "onerror", data: fault(error) });
    // Without jitter a wait is as short as it may be; a client id made without chance would be everybody's.
    const calm = options.jitter === false ? { runtime: { random: () => 0 }, client: randomUUID() } : {};
    client = connect(url, { ...options, ...calm, token, WebSocket, onerror });
    client.on("*", (data, event) => print({ ...event, data: plain(data) }));
    return client.id;
  },
  token: ({ value }) => void (tokens = [value]),
  join: ({ room, state }) => client.room(room).join({ state }),
  leave: ({ room }) => client.room(room).leave(),
  send: ({ event, data, options }) => client.send(event, data, options),
  sendBytes: ({ event, data, options }) => client.send(event, Buffer.from(data, "base64"), options),
  notify: ({ event, data, options }) => client.notify(event, data, options),
  fetchMembers: ({ room }) => client.room(room).fetchMembers(),
  fetchRooms: () => client.fetchRooms(),
  outage: ({ duration }) => client.simulateOutage(duration),
  /** Lose the link, and find none until `restore`. */
  cut() {
    way = new Promise((resolve) => (clear = resolve));
    client.simulateOutage(0);
  },
  restore: () => clear(),
  close: () => client.close(),
  state: () => ({
    state: client.state,
    user: client.user,
    error: client.error && fault(client.error),
    rooms: Object.fromEntries([...client.rooms].map(([name, room]) => [name, roomState(room)])),
  }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: name, ...rest } = JSON.parse(line);
  // Not awaited: a message may wait for a link while the next command breaks it.
  new Promise((resolve) => resolve(commands[name](rest))).then(
    (result) => print({ id, result: result ?? null }),
    (error) => print({ id, error: fault(error) }),
  );
}
client?.close();
