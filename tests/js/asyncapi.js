/**
 * Reads AsyncAPI documents by the official parser: `[{ errors, document }]` of the files that are named, as JSON.
 */

import { readFileSync } from "node:fs";

import { Parser } from "@asyncapi/parser";

const parser = new Parser();
const report = [];
for (const file of process.argv.slice(2)) {
  const source = readFileSync(file, "utf8");
  const { document, diagnostics } = await parser.parse(source, { applyTraits: false });
  const errors = diagnostics.filter(({ severity }) => severity < 2);
  report.push({
    errors: errors.map(({ message, path }) => `${path.join(".")}: ${message}`),
    operations: document?.operations().all().map((operation) => [operation.id(), operation.action()]) ?? [],
    channels: document?.channels().all().map((channel) => channel.address()) ?? [],
  });
}
console.log(JSON.stringify(report));
