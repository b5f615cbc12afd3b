// pg-boss: `prepare` makes its tables and its queue, `insert` prints the statement of `send`, `relay` works until SIGTERM.
import { load, publisher } from "./entry.mjs";

const { PgBoss } = await load("pg-boss");
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, useListenNotify: true });
boss.on("error", (error) => console.error(error.message));
await boss.start();

if (process.argv[2] === "prepare") {
  await boss.createQueue("relay", { notify: true });
  await boss.stop({ graceful: false });
} else if (process.argv[2] === "insert") {
  // What it would run in a transaction of the application, as its documentation has it.
  const db = {
    executeSql: async (text, values) => {
      console.log(JSON.stringify({ text, values }));
      return { rows: [{ id: "x" }] };
    },
  };
  await boss.send("relay", { event: "here" }, { db });
  await boss.stop({ graceful: false });
} else {
  const publish = await publisher();
  const batchSize = Number(process.env.JOBS);
  await boss.work(
    "relay",
    { batchSize, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 },
    (jobs) => Promise.all(jobs.map((job) => publish(job.data))),
  );
  process.on("SIGTERM", () => boss.stop({ timeout: 2000 }).finally(() => process.exit(0)));
}
