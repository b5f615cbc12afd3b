// graphile-worker: `prepare` makes its tables, `relay` works until SIGTERM. Settings as of its own performance test.
import { load, publisher } from "./entry.mjs";

const { run, runMigrations } = await load("graphile-worker");
const connectionString = process.env.DATABASE_URL;
const jobs = Number(process.env.JOBS);

if (process.argv[2] === "prepare") {
  await runMigrations({ connectionString });
} else {
  const publish = await publisher();
  const runner = await run({
    preset: {
      worker: {
        connectionString,
        concurrentJobs: jobs,
        maxPoolSize: 25,
        localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        pollInterval: 2000,
      },
    },
    noHandleSignals: true,
    parsedCronItems: [],
    taskList: { relay: (event) => publish(event) },
  });
  process.on("SIGTERM", () => runner.stop().finally(() => process.exit(0)));
  await runner.promise;
}
