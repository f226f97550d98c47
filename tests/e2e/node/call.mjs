// Calls the gateway from Node: with Klaviyo's SDK ("sdk"), or with a script published for Windmill ("windmill").
//
// Standard input holds calls by name, each {api, key, way: "bulk" | "single", document}; standard output gets
// what came of each: {returned}, or {raised, status, ...} as the error has it.

import { readFileSync } from "node:fs";
import amaro from "amaro";
import { ApiKeySession, EventsApi } from "klaviyo-api";

const SCRIPT = new URL("windmill-bulk-create-events.ts", import.meta.url);
const SCRIPT_HOST = "https://a.klaviyo.com";
const METHODS = { bulk: "bulkCreateEvents", single: "createEvent" };
const FREE_FORM = ["properties", "append", "unappend"];

/** A document as the SDK's models have it: names in camel case, times as `Date`. Free-form objects stay. */
function modelled(value) {
  if (Array.isArray(value)) return value.map(modelled);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, held]) => {
      if (FREE_FORM.includes(name)) return [name, held];
      if (name === "time") return [name, new Date(held)];
      const parts = name.replace(/^_/, "").split(/[_-]/);
      return [parts[0] + parts.slice(1).map((part) => part[0].toUpperCase() + part.slice(1)).join(""), modelled(held)];
    }),
  );
}

async function sdk({ api, key, way, document }) {
  const events = new EventsApi(new ApiKeySession(key));
  events.basePath = api;
  try {
    const { response } = await events[METHODS[way]](modelled(document));
    return { returned: response.data };
  } catch (error) {
    if (!error.response) throw error;
    const { status, data } = error.response;
    return { raised: error.name, status, errors: data.errors };
  }
}

async function windmill({ api, key, document }) {
  const published = readFileSync(SCRIPT, "utf8");
  if (published.split(SCRIPT_HOST).length !== 2) throw new Error("the script names its host once");
  // Only its host is another; what erases the types puts spaces where they were.
  const { code } = amaro.transformSync(published.replace(SCRIPT_HOST, api), { mode: "strip-only" });
  const { main } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  try {
    return { returned: await main({ apiKey: key }, "2026-07-15", document) };
  } catch (error) {
    const [status, body] = error.message.split(/ (.*)/s);
    return { raised: error.name, status: Number(status), errors: JSON.parse(body).errors };
  }
}

const call = { sdk, windmill }[process.argv[2]];
const outcomes = {};
for (const [name, each] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
  outcomes[name] = await call(each);
}
process.stdout.write(JSON.stringify(outcomes));
