// On socket.io: its Redis adapter over node-redis, and `ws` under it. All but the publisher are in one room. Its settings
// are the defaults; it knows no users, tokens, schemas, history or limits.
//
// Usage: node server.js FD, the number of an open, listening socket; REDIS_URL in the environment.

import { createServer } from "node:http";

import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const publishing = createClient({ url: process.env.REDIS_URL });
const subscribed = publishing.duplicate();
await Promise.all([publishing.connect(), subscribed.connect()]);

const http = createServer();
const io = new Server(http, { adapter: createAdapter(publishing, subscribed) });

io.on("connection", (socket) => {
  if (socket.handshake.query.role !== "publisher") socket.join("room");
  socket.on("say", (message) => io.to("room").emit("said", { content: message.content }));
});

http.listen({ fd: Number(process.argv[2]) });
