// The overview: how the deployment is doing, drawn over time.

import { ask } from "./api.js";
import { chart } from "./chart.js";
import { ago, count, counted, empty, failure, fill, h, length } from "./dom.js";
import { state } from "./parts.js";

const SECONDS = 5;
const QUEUES = {
  events: "events",
  events_dead_letters: "dead letters",
  background: "background",
  background_dead_letters: "dead letters of background",
  rejected: "rejections",
  rejected_dead_letters: "dead letters of rejections",
};

export async function overview({ place, signal, repeat }) {
  const shown = h("div");
  const said = h("div", { role: "status" });
  fill(place, h("h1", null, "Overview"), said, shown);
  const look = async () => {
    const status = await ask("status", {}, signal);
    fill(said);
    fill(shown, drawn(status));
  };
  await look();
  let busy = false;
  repeat(SECONDS, async () => {
    if (busy) return;
    busy = true;
    await look().catch((error) => !signal.aborted && fill(said, failure(error)));
    busy = false;
  });
}

function drawn(status) {
  return [
    h("p", { class: "quiet" }, `Sluice ${status.version}, looked at `, ago(status.at)),
    (status.alarms ?? []).map((alarm) => h("p", { class: "failure" }, h("strong", null, alarm.name), " since ", ago(alarm.since), `: ${alarm.reason}`)),
    h("section", { class: "tiles", "aria-label": "Now and before" }, tiles(status)),
    h("section", null, h("h2", null, "Accounts in need"), accountsInNeed(status)),
    h("section", null, h("h2", null, "Queues"), queues(status)),
    status.not_known.map((sentence) => h("p", { class: "quiet" }, `Not known: ${sentence}`)),
  ];
}

const unknown = () => h("p", { class: "chart none" }, "CloudWatch has no metrics of the last hour.");

function tile(title, number, note, drawing, address = null) {
  return h("article", { class: "tile" },
    h("h2", null, address ? h("a", { href: address }, title) : title),
    h("p", { class: "number" }, number), h("p", { class: "quiet" }, note), drawing);
}

function tiles(status) {
  const hour = status.last_hour;
  const minutes = hour?.minutes ?? [];
  const each = (name) => minutes.map((minute) => [minute.at, minute[name]]);
  const over = (name) => status.samples.map((sample) => [sample.at, sample[name]]);
  const last = status.samples.at(-1) ?? {};
  const open = status.accounts.filter((account) => account.circuit === "open").length;
  const paused = status.accounts.filter((account) => account.circuit === "paused").length;
  return [
    tile("Throughput", hour ? count(hour.delivered) : "–",
      hour ? `delivered in the last hour, of ${count(hour.accepted)} accepted; ${count(hour.rejected)} rejected` : "events of the last hour",
      hour ? chart("Events a minute", [{ name: "delivered", points: each("delivered") }, { name: "accepted", points: each("accepted") }]) : unknown()),
    tile("Queue", count(last.queue), `messages wait or are in flight; ${count(last.parked)} parked`,
      chart("Messages", [{ name: "queue", points: over("queue") }])),
    tile("Fill", hour?.fill ? count(hour.fill) : "–",
      hour ? `events in a job; ${counted(hour.jobs, "job")} in the last hour, ${count(hour.rate_limited)} times 429` : "events in a job",
      hour ? chart("Events in a job", [{ name: "fill", points: each("fill") }]) : unknown()),
    tile("Pace", last.used === null ? "–" : count(last.used), `of ${count(last.allowed)} requests that may leave in a minute`,
      chart("Requests in a minute", [{ name: "used", points: over("used") }, { name: "allowed", points: over("allowed"), isLimit: true }])),
    tile("Circuits", open + paused ? count(open + paused) : "all closed",
      open + paused ? `not closed: ${count(open)} open, ${count(paused)} paused` : `of ${counted(status.accounts.length, "account")}`,
      chart("Circuits that are not closed", [{ name: "not closed", points: over("open") }]), "/accounts"),
    tile("Rejections", count(status.open_events), `open events in ${counted(status.open_groups, "group")}`,
      chart("Open rejections", [{ name: "open", points: over("refused") }]), "/rejections"),
  ];
}

function accountsInNeed(status) {
  if (!status.accounts.length) return empty("There is no account yet.", "Accounts whose circuit is open, which are paused or have something parked would stand here. docs/accounts.md says how to add one.");
  const needy = status.accounts.filter((account) => account.circuit !== "closed" || account.parked);
  if (!needy.length) return h("p", { class: "quiet" }, `None: every circuit is closed, and nothing is parked, for ${counted(status.accounts.length, "account")}.`);
  return h("ul", { class: "rows" }, needy.map((account) => h("li", null,
    h("div", { class: "grow" }, h("p", null, h("strong", null, account.id), " ", state(account.circuit)),
      h("p", { class: "quiet" }, account.why, account.why && account.since && ", ", account.since && ["since ", ago(account.since)], account.who && ` (${account.who})`)),
    h("p", { class: "figure" }, h("strong", null, `${count(account.parked)}${account.parked_more ? "+" : ""}`), h("span", null, "parked")))));
}

function queues(status) {
  if (!status.queues.length) return empty("The queues are not known.", "Their depth and the age of their oldest message would stand here.");
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Queues" }, h("table", null,
    h("thead", null, h("tr", null, ["Queue", "Messages", "In flight", "Delayed", "Oldest"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", null, status.queues.map((queue) => h("tr", null,
      h("th", { scope: "row" }, QUEUES[queue.name] ?? queue.name),
      [queue.visible, queue.in_flight, queue.delayed].map((number) => h("td", null, count(number))),
      h("td", null, queue.oldest_seconds === null ? "–" : length(queue.oldest_seconds)))))),
  status.jobs?.length ? h("p", { class: "quiet" }, "Jobs that are not over: ", status.jobs.map((job, index) => [index ? ", " : null, h("a", { href: `/jobs/${job.id}` }, `${job.kind} ${job.id}`), ` (${job.state})`])) : null);
}
