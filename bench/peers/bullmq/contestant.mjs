// BullMQ as a contestant of `cargo xtask bench jobs`. Reads one task per line as JSON from standard input and
// writes one answer per line to standard output. README.md explains which features are used, and why.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.BENCH_MODULES}/`);
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");

const QUEUE = "bench";
const BATCH = 1_000;
const LOOK_PAUSE_MS = 2;
const WAIT_MAX_MS = 240_000;
const JOB_OPTIONS = { removeOnComplete: true };

const now = () => performance.now();
const connect = (options) => new Redis({ host: "127.0.0.1", port: Number(process.env.BENCH_REDIS_PORT), ...options });
const rate = (jobs, ms) => ({ per_second: jobs / (ms / 1_000) });

async function withQueue(use) {
  const connection = connect();
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: JOB_OPTIONS });
  try {
    await queue.waitUntilReady();
    return await use(queue);
  } finally {
    await queue.close();
    connection.disconnect();
  }
}

/** Runs jobs while `use` runs; calls `note` with each job's number and start time. */
async function withWorker(concurrency, note, use) {
  const connection = connect({ maxRetriesPerRequest: null });
  const worker = new Worker(QUEUE, async (job) => note(job.data.n, now()), { connection, concurrency });
  let failed;
  worker.on("failed", (_, error) => (failed = error));
  worker.on("error", (error) => (failed = error));
  try {
    await worker.waitUntilReady();
    const result = await use();
    if (failed) throw failed;
    return result;
  } finally {
    await worker.close();
    connection.disconnect();
  }
}

async function pushSingle(queue, jobs, inFlight) {
  const begun = now();
  const push = async (producer) => {
    for (let n = producer; n < jobs; n += inFlight) await queue.add("noop", { n });
  };
  await Promise.all(Array.from({ length: inFlight }, (_, producer) => push(producer)));
  return rate(jobs, now() - begun);
}

async function pushBatch(queue, jobs) {
  const begun = now();
  for (let from = 0; from < jobs; from += BATCH) {
    const length = Math.min(BATCH, jobs - from);
    await queue.addBulk(Array.from({ length }, (_, at) => ({ name: "noop", data: { n: from + at } })));
  }
  return rate(jobs, now() - begun);
}

async function drained(queue) {
  const deadline = now() + WAIT_MAX_MS;
  for (;;) {
    const counts = await queue.getJobCounts("wait", "active", "delayed");
    if (Object.values(counts).every((count) => count === 0)) return;
    if (now() > deadline) throw new Error(`not drained: ${JSON.stringify(counts)}`);
    await sleep(LOOK_PAUSE_MS);
  }
}

async function drain(queue, jobs, concurrency) {
  await pushBatch(queue, jobs);
  let first;
  let started = 0;
  const note = (_, at) => {
    first ??= at;
    started += 1;
  };
  return withWorker(concurrency, note, async () => {
    await drained(queue);
    const end = now();
    if (started !== jobs) throw new Error(`${started} of ${jobs} jobs started`);
    return rate(jobs, end - first);
  });
}

async function latency(queue, { samples, warm_up, interval_ms, concurrency }) {
  const total = samples + warm_up;
  const called = new Array(total);
  const waits = new Array(total);
  const note = (n, at) => (waits[n] = at - called[n]);
  return withWorker(concurrency, note, async () => {
    const begun = now();
    const pushing = [];
    for (let n = 0; n < total; n += 1) {
      const due = begun + n * interval_ms;
      await sleep(Math.max(0, due - now()));
      called[n] = now();
      pushing.push(queue.add("noop", { n }));
    }
    await Promise.all(pushing);
    await drained(queue);
    const counted = waits.slice(warm_up).sort((a, b) => a - b);
    const at = (percent) => counted[Math.ceil((counted.length * percent) / 100) - 1];
    return { p50_ms: at(50), p99_ms: at(99) };
  });
}

async function measure(task) {
  return withQueue((queue) => {
    switch (task.do) {
      case "push_single":
        return pushSingle(queue, task.jobs, task.in_flight);
      case "push_batch":
        return pushBatch(queue, task.jobs);
      case "drain":
        return drain(queue, task.jobs, task.concurrency);
      case "latency":
        return latency(queue, task);
      default:
        throw new Error(`BullMQ cannot do ${task.do}`);
    }
  });
}

const tell = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
const version = (name) => require(`${name}/package.json`).version;

tell({ ready: `BullMQ ${version("bullmq")}, ioredis ${version("ioredis")}, Node ${process.versions.node}` });
for await (const line of createInterface({ input: process.stdin })) {
  try {
    tell({ values: await measure(JSON.parse(line)) });
  } catch (error) {
    tell({ error: String(error) });
  }
}
process.exit(0);
