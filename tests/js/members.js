/**
 * What the module has at run time and what its declarations say that it has, as JSON: `[{ name, module, declared }]`.
 */

import ts from "typescript";

import * as module from "../../src/roomwire/client/js/roomwire.js";

const declarations = new URL("../../src/roomwire/client/js/roomwire.d.ts", import.meta.url).pathname;
const program = ts.createProgram([declarations], { lib: ["lib.es2024.d.ts", "lib.dom.d.ts"] });
const checker = program.getTypeChecker();
const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(declarations)));

const values = exported.filter(({ flags }) => flags & ts.SymbolFlags.Value).map(({ name }) => name);
const report = [{ name: "exports", module: Object.keys(module).filter((name) => name !== "Room"), declared: values }];

class Silent {
  close() {}
}
const client = new module.Client("ws://127.0.0.1/ws", { WebSocket: Silent });
for (const [name, object] of [["Client", client], ["Room", client.room("r")]]) {
  const type = checker.getDeclaredTypeOfSymbol(exported.find((symbol) => symbol.name === name));
  const own = [...Object.keys(object), ...Object.getOwnPropertyNames(Object.getPrototypeOf(object))];
  const declared = type.getProperties().map((property) => property.name);
  report.push({ name, module: own.filter((member) => member !== "constructor"), declared });
}
client.close();
console.log(JSON.stringify(report));
