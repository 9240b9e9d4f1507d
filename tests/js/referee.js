/**
 * npm's ws as it is, driven from outside: tests/server/referees.py is the other end. Commands come as JSON lines on
 * stdin, and what happens goes out as JSON lines on stdout.
 */

import { createInterface } from "node:readline";

import { WebSocket } from "ws";

let socket = null;

function print(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function refused(response) {
  const chunks = [];
  response.on("data", (chunk) => chunks.push(chunk));
  response.on("end", () => {
    const body = Buffer.concat(chunks).toString();
    print({ refused: { status: response.statusCode, headers: response.headers, body } });
  });
}

const commands = {
  connect({ url, protocols, headers }) {
    socket = new WebSocket(url, protocols, { headers, perMessageDeflate: false });
    socket.on("open", () => print({ opened: socket.protocol }));
    socket.on("unexpected-response", (_, response) => refused(response));
    socket.on("message", (data, isBinary) => print({ message: isBinary ? [...data] : data.toString() }));
    socket.on("close", (code, reason) => print({ closed: [code, reason.toString()] }));
    socket.on("error", (error) => print({ error: error.message }));
  },
  send: ({ text }) => socket.send(text),
  close: ({ code }) => socket.close(code),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line);
  commands[name](rest);
}
socket?.terminate();
