// The Node peers, each from a caller's bytes to the bytes it would send. Their sockets are left out.
// Usage: node peers.mjs <segment|sdk> <file of few events> <input file> <rounds>; prints one JSON object.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const [, , name, few, input, rounds] = process.argv;

function segment() {
  let sent;
  const fetched = require("cross-fetch");
  const path = require.resolve("cross-fetch", { paths: [require.resolve("@segment/actions-core")] });
  const { Response } = fetched;
  const fetch = async (request) => {
    sent = await request.text();
    return new Response("", { status: 202 });
  };
  const stub = Object.assign(fetch, fetched, { default: fetch, fetch, __esModule: true });
  require.cache[path] = { id: path, filename: path, loaded: true, exports: stub };
  // The package's index loads every destination, some of which miss a dependency.
  const root = dirname(require.resolve("@segment/action-destinations"));
  const klaviyo = require(join(root, "destinations/klaviyo/index.js")).default;
  const { Destination } = require("@segment/actions-core");
  const destination = new Destination(klaviyo);
  const at = (path) => ({ "@path": path });
  const mapping = {
    profile: {
      email: at("$.context.traits.email"),
      external_id: at("$.userId"),
      first_name: at("$.context.traits.first_name"),
      last_name: at("$.context.traits.last_name"),
      location: at("$.context.traits.location"),
    },
    metric_name: at("$.event"),
    properties: at("$.properties"),
    time: at("$.timestamp"),
    value: at("$.value"),
    unique_id: at("$.messageId"),
    enable_batching: true,
    batch_size: 1000,
  };
  return async (bytes) => {
    const events = JSON.parse(bytes);
    const answers = await destination.executeBatch("trackEvent", { events, mapping, settings: { api_key: "pk_benchmark" } });
    const refused = answers.find((answer) => answer.status >= 300);
    if (refused) throw new Error(`refused: ${JSON.stringify(refused).slice(0, 300)}`);
    return Buffer.from(sent);
  };
}

function sdk() {
  let sent;
  const axios = require("axios");
  const adapter = async (config) => {
    sent = config.data;
    return { status: 202, statusText: "Accepted", headers: {}, data: "", config };
  };
  axios.defaults.adapter = adapter;
  const { ApiKeySession, EventsApi } = require("klaviyo-api");
  const events = new EventsApi(new ApiKeySession("pk_benchmark"));
  // Its models are camelCase, so a caller's JSON has to be written in that: part of what it takes.
  const renamed = (given, names) => Object.fromEntries(Object.entries(given).map(([key, value]) => [names[key] ?? key, value]));
  const PROFILE = { first_name: "firstName", last_name: "lastName", external_id: "externalId" };
  const EVENT = { unique_id: "uniqueId", value_currency: "valueCurrency" };
  const entry = ({ type, attributes: { profile, events } }) => ({
    type,
    attributes: {
      profile: { data: { type: "profile", attributes: renamed(profile.data.attributes, PROFILE) } },
      events: {
        data: events.data.map(({ type, attributes }) => ({
          type,
          attributes: { ...renamed(attributes, EVENT), time: new Date(attributes.time) },
        })),
      },
    },
  });
  return async (bytes) => {
    const { type, attributes } = JSON.parse(bytes).data;
    const entries = attributes["events-bulk-create"].data.map(entry);
    await events.bulkCreateEvents({ data: { type, attributes: { eventsBulkCreate: { data: entries } } } });
    return Buffer.from(sent);
  };
}

function peak() {
  const status = existsSync("/proc/self/status") ? readFileSync("/proc/self/status", "utf8") : "";
  const highest = status.match(/^VmHWM:\s*(\d+)/m);
  return (highest ? Number(highest[1]) : process.resourceUsage().maxRSS) * 1024;
}

const run = { segment, sdk }[name]();
const bytes = readFileSync(input);
// As for the others: beyond what it has after a few events, which is its modules and what it makes once.
await run(readFileSync(few));
if (existsSync("/proc/self/clear_refs")) writeFileSync("/proc/self/clear_refs", "5");
const before = peak();
let body = await run(bytes);
const memory = peak() - before;
let best = Infinity;
for (let round = 0; round < Number(rounds); round++) {
  const begin = process.hrtime.bigint();
  const used = process.cpuUsage();
  body = await run(bytes);
  const { user, system } = process.cpuUsage(used);
  // Processor time counts the threads of its compiler and collector, too: whichever is less.
  best = Math.min(best, Number(process.hrtime.bigint() - begin) / 1e9, (user + system) / 1e6);
}
const document = JSON.parse(body);
const events = document.data.attributes["events-bulk-create"].data.reduce(
  (sum, each) => sum + each.attributes.events.data.length, 0);
console.log(JSON.stringify({
  seconds: best, bytes: body.length, events, memory, node: process.version,
}));
process.exit(0);
