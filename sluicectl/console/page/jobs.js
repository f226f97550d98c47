// Jobs: a replay from its plan to its end.

import { about, ask } from "./api.js";
import { ago, count, counted, empty, failure, fact, fill, h, link, utc } from "./dom.js";
import { changing, state } from "./parts.js";

const OVER = ["done", "cancelled"];
const NOUNS = { erase: "An erasure", import: "An import", replay: "A replay" };
const samples = new Map();  // of plans that were made here

/** Keeps the example of a plan until its page is shown. */
export const remember = (id, sample) => samples.set(id, sample);

export async function jobs({ place, signal }) {
  const { jobs: found } = await ask("jobs/list", {}, signal);
  fill(place, h("h1", null, "Jobs"),
    h("p", { class: "lead" }, "Long work, the newest first. It goes on without anybody who waits."),
    found.length ? h("ul", { class: "rows" }, found.map((each) => h("li", null,
      h("div", { class: "grow" },
        h("p", null, h("a", { class: "strong", href: `/jobs/${each.id}` }, `${each.kind} ${each.id}`), " ", state(each.state)),
        h("p", { class: "quiet" }, "begun ", ago(each.created_at), " by ", h("bdi", null, each.who))),
      h("p", { class: "when" }, each.summary)))) :
      empty("There is no job.", "Replays, imports and erasures would stand here, from their plan to their end. Send a refused event again, and it is one."));
}

export async function job({ place, id, signal, go, repeat }) {
  const body = h("div");
  const said = h("div", { role: "status" });
  let shown = (await ask("jobs/show", { job: id }, signal)).job;
  const draw = () => fill(body, drawn(shown, change));
  const change = async (name) => {
    shown = (await ask(name, { job: id })).job;
    draw();
  };
  draw();
  fill(place, h("nav", { class: "back", "aria-label": "Back" }, h("a", { href: "/jobs" }, "All jobs")), body, said);
  let busy = false;
  repeat(1, async () => {
    if (busy || OVER.includes(shown.state) || shown.state === "planned") return;
    busy = true;
    const name = about.may_change && shown.state !== "planning" ? "jobs/work" : "jobs/show";
    try {
      const next = (await ask(name, { job: id }, signal)).job;
      fill(said);
      if (JSON.stringify(next) !== JSON.stringify(shown)) {
        shown = next;
        draw();
      }
    } catch (error) {
      if (!signal.aborted) fill(said, failure(error));
    }
    busy = false;
  });
}

function drawn(shown, change) {
  const isPlan = shown.state === "planned" || shown.state === "planning";
  const isRunning = !isPlan && !OVER.includes(shown.state);
  const isReplay = shown.kind === "replay";
  return [
    h("h1", null, NOUNS[shown.kind] ?? shown.kind, " ", state(shown.state)),
    h("p", { class: "lead" }, lead(shown)),
    isReplay && (isRunning || shown.state === "done") ? progress(shown) : null,
    h("ul", { class: "counts" }, shown.counts.map((each) =>
      h("li", { class: each.name }, h("strong", null, count(each.count)), h("span", null, each.words)))),
    shown.reasons.length ? h("section", null, h("h2", null, "Why some are left"), h("ul", { class: "counts reasons" }, shown.reasons.map((each) =>
      h("li", null, h("strong", null, count(each.count)), h("span", null, h("bdi", null, each.why)))))) : null,
    shown.repeatable ? h("p", { class: "warning" }, `${counted(shown.repeatable, "relationship")} not single: if Pipeless has taken them before, they will be there twice.`) : null,
    isPlan ? sample(samples.get(shown.id)) : null,
    h("div", { class: "buttons" },
      isReplay && shown.state === "planned" && shown.ready ? changing(`Send ${counted(shown.events, "event")} again`, () => change("rejections/replay/run"), { class: "main" }) : null,
      isPlan ? changing(isReplay ? "Do not send" : "Cancel", () => change("jobs/cancel")) : null,
      isRunning ? changing("Cancel", () => change("jobs/cancel"), { class: "danger" }) : null),
    h("dl", { class: "facts" }, fact("Job", h("code", null, shown.id)), fact("Begun", utc(shown.created_at), " by ", shown.who),
      shown.confirmed_by && fact("Confirmed by", shown.confirmed_by), shown.cancelled_by && fact("Cancelled by", shown.cancelled_by)),
  ];
}

function lead(shown) {
  if (shown.kind === "import") return "It is sent by sluicectl import, from the machine that has the file.";
  if (shown.kind !== "replay") return shown.state === "planned" ? "It waits to be confirmed on the command line." : "It goes on without anybody who waits.";
  switch (shown.state) {
    case "planning": return "The records are looked at. Nothing is sent yet.";
    case "planned":
      if (!shown.matched) return "No open rejection is meant by this, so there is nothing to send.";
      return shown.ready ? "Nothing is sent yet. This is what would be:" : "None of them can be sent as they are now.";
    case "cancelled": return shown.sent ? `It sends nothing more. The ${count(shown.sent)} that are sent stay sent.` : "Nothing was sent.";
    case "done": return shown.rejected_again
      ? ["It is done. What was refused again is a new rejection: ", h("a", { href: link("/rejections/list", { state: "open", since: shown.created_at }) }, "look at those since"), "."]
      : "It is done.";
    default: return "It goes on if you leave this page.";
  }
}

function progress(shown) {
  const total = Math.max(shown.ready || shown.matched, shown.sent, 1);
  const done = shown.delivered + shown.rejected_again + shown.reopened;
  return h("div", { class: "progress" },
    h("progress", { max: String(total), value: done, "aria-label": "Records with an outcome" }),
    h("p", { class: "quiet" }, `${count(done)} of ${count(total)} have an outcome`));
}

function sample(found) {
  if (!found) return null;
  return h("section", null, h("h2", null, "One of them, before and after"),
    found.changes.length
      ? h("ul", { class: "changes" }, found.changes.map(([pointer, before, after]) => h("li", null, h("code", null, pointer || "the whole"), " ", h("del", null, before), " → ", h("ins", null, after))))
      : h("p", { class: "quiet" }, "It is sent as it was."),
    h("p", { class: "quiet" }, "Record ", h("a", { class: "mono", href: `/rejections/${found.id}` }, found.id)));
}
