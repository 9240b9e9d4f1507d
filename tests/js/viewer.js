// A foreign client of event streams, the package `eventsource`: says each event and each end as a line of JSON.
//
//     node viewer.js URL EVENT...

import { EventSource } from "eventsource";

const [url, ...names] = process.argv.slice(2);
const say = (fields) => console.log(JSON.stringify(fields));

const source = new EventSource(url);
for (const name of names) {
  source.addEventListener(name, ({ type, data, lastEventId }) => say({ type, data, lastEventId }));
}
source.addEventListener("error", ({ code }) => say({ type: "error", state: source.readyState, code }));
