/** Uses of the contract of tests/contract/hostile.py. */

import { connect } from "../../../src/roomwire/client/js/roomwire.js";
import type { ClientEvents, Rooms, ServerEvents } from "./contract.js";

const client = connect<ServerEvents, ClientEvents, Rooms>("/ws");
const text: string = "x";

client.on("constructor", (n: number) => n);
client.on("toString", (n: number) => n);
client.on("tree", (tree) => tree.parent?.parent?.children[0]?.value);
client.on("fields", (f) => {
  const numbers: number[] = [f["a-b"], f["1st"], f['q"x\\'], f.constructor, f.either, f.default[0], f.endless];
  const texts: string[] = [f.class, f.at, f.day, f.span, f.amount, f.raw, f.id, ...f.different];
  const few: [number, string | null] = f.few;
  const none: [] = f.none;
  const colour: "red" | 'b"l\\u`${e' | 1 = f.colour;
  const literal: 1 | "a" | null | true | "red" = f.literal;
  const rank: 1 | 2 = f.rank;
  const kind: "cat" | "dog" | "hound" = f.pet.kind;
  const nested: [number | null, ("x" | "y")[]] | undefined = f.nested[0];
  const optional: number | null = f.optional;
  const found = [f.by_name["a"]?.kind, f.by_number[7]?.kind, f.deep["a"]?.["b"]?.[0], f.many[3]];
  // @ts-expect-error  it may be any of many things
  f.whatever.length;
  // @ts-expect-error  as may this be
  f.pair.length;
  // @ts-expect-error  JSON has no functions
  f.act();
  // @ts-expect-error  it is not written
  f.hidden;
  return [numbers, texts, few, none, colour, literal, rank, kind, nested, optional, found];
});
client.on("json", (json) => (typeof json === "object" && json !== null && !Array.isArray(json) ? json["a"] : null));
client.on("page", (page) => page.items[0]?.items[0]?.kind);
client.on("page.of.optional", (page: { items: (number | null)[] }) => page);
client.on("more", (more) => [more.a + 1, more["b"]]);
client.on("named", ([a]) => a + 1);
client.on("none", (nothing: null) => nothing);
client.on("bytes", (bytes: Uint8Array) => bytes);

await client.send("tree", { value: 1, parent: { value: 2, children: [] } });
await client.send("text");
await client.send("nothing", {});
await client.send("more", { a: 1, b: "x" });
await client.send("recursive", { a: { b: 1 } });
await client.send("json", [1, { a: null }]);
await client.send("loose", { x: 1 });
const data: { a: number; b: string[] } = await client.send("data", { a: 1 });

// @ts-expect-error  the leaves are numbers
await client.send("recursive", { a: { b: "x" } });
// @ts-expect-error  nothing may stand there
await client.send("nothing", { a: 1 });
// @ts-expect-error  one of them is needed, by the alias that comes first
await client.send("fields", { either: 1 });
// @ts-expect-error  of a binary message the data is bytes
await client.send("bytes", "x");

/** Each of them is a room of its pattern, whose data alternates between two models. */
const first = [
  client.room(`chat:${text}`),
  client.room("a_b:1"),
  client.room("back\\slash:x"),
  client.room("😀:1"),
  client.room("chat channel:1"),
  client.room("$"),
  client.room("z\\$:1"),
];
for (const room of first) room.on("in.room", (model: { e: number }) => model.e);
client.room("any:thing").on("in.room", ({ kind }) => kind);
client.room("a`b:1").on("in.room", ({ e }) => e);
client.room('q"r').on("in.room", ({ e }) => e);
client.room("x-1-2").on("in.room", ({ e }) => e);
client.room("*/:1").on("in.room", ({ e }) => e);
// @ts-expect-error  a name that no pattern matches
client.room("x:y:z").on("in.rooms", () => {});

export { data };
