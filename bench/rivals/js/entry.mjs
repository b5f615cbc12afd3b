// What the Node peers publish, and how: commands of one tick of the loop are one write, replies are counted.
// As small as the wire that the Python peers are given (bench/rivals/entry.py), so that what is compared is the queue.
import { createRequire } from "node:module";
import net from "node:net";

// Packages lie where `python -m bench.rivals install` put them, not beside this file.
const require = createRequire(process.env.BENCH_NODE_FOLDER + "/");
export const load = (name) => import(require.resolve(name));

const word = (text) => `$${Buffer.byteLength(text)}\r\n${text}\r\n`;

export async function publisher() {
  const url = new URL(process.env.REDIS_URL);
  const stream = process.env.DISPATCH_STREAM_NAME;
  const head = ["XADD", stream, "MAXLEN", "~", "1000000", "*"].map(word).join("");
  const socket = net.connect(Number(url.port || 6379), url.hostname);
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  socket.setNoDelay(true);
  const waiting = []; // [resolve, reject] of each command, in order
  let first = 0;
  let batch = [];
  let rest = "";

  socket.on("close", () => {
    console.error("Redis closed the connection");
    process.exit(1);
  });
  socket.on("data", (data) => {
    rest += data.toString("latin1");
    let at = 0;
    for (;;) {
      const end = rest.indexOf("\r\n", at);
      if (end < 0) break;
      let next = end + 2;
      if (rest[at] === "$") {
        next += Number(rest.slice(at + 1, end)) + 2;
        if (rest.length < next) break;
      }
      const [resolve, reject] = waiting[first++];
      if (rest[at] === "-") reject(new Error(rest.slice(at + 1, end)));
      else resolve();
      at = next;
    }
    rest = rest.slice(at);
    if (first > 4096) waiting.splice(0, first), (first = 0);
  });

  const send = (command) =>
    new Promise((resolve, reject) => {
      waiting.push([resolve, reject]);
      if (batch.push(command) === 1) {
        process.nextTick(() => {
          socket.write(batch.join(""));
          batch = [];
        });
      }
    });

  const database = url.pathname.slice(1) || "0";
  if (url.password) await send(`*2\r\n${word("AUTH")}${word(decodeURIComponent(url.password))}`);
  await send(`*2\r\n${word("SELECT")}${word(database)}`);
  return (event) => {
    const fields = [
      "event_id", event.event_id,
      "message_id", event.message_id,
      "event_type", event.event_type,
      "aggregate_type", "message",
      "aggregate_id", event.aggregate_id,
      "occurred_at", "2025-02-03T04:05:06.789012Z",
      "payload", event.payload,
    ];
    if (event.headers) fields.push("headers", event.headers);
    return send(`*${6 + fields.length}\r\n${head}${fields.map(word).join("")}`);
  };
}
