// One record: whose, when, why, and its payload, which is mended in place.

import { about, ask } from "./api.js";
import { ago, counted, fact, failure, fill, h, link, utc } from "./dom.js";
import { changing, state } from "./parts.js";
import { discard, plan, restore } from "./rejections.js";

const PAUSE = 400;  // milliseconds after the last key
const MARKED_LINES = 3_000;  // of a text in which lines are marked

export async function record({ place, id, signal, go }) {
  const body = h("div");
  const look = async (reveal = false) => fill(body, drawn(await ask("rejections/show", { id, reveal }, signal), look, go, signal));
  await look();
  fill(place, h("nav", { class: "back", "aria-label": "Back" }, h("a", { href: "/rejections" }, "All causes")), body);
}

function drawn(shown, look, go, signal) {
  const again = () => look(!shown.masked);
  const other = (id) => id && h("a", { class: "mono", href: `/rejections/${id}` }, id);
  return [
    h("h1", null, h("bdi", null, shown.words), " ", state(shown.state)),
    h("p", { class: "lead" }, shown.meaning),
    h("section", null, payload(shown, look, go, signal)),
    h("section", { class: "columns" },
      h("dl", { class: "facts" },
        fact("Reason", shown.reason.replaceAll("_", " "), shown.code && shown.code !== shown.reason && ` (${shown.code})`),
        fact("Account", shown.account), fact("Metric", h("bdi", null, shown.metric ?? "–")), fact("Source", shown.source),
        fact("Surface", shown.surface), fact("Events", counted(shown.events, "event")),
        fact("Accepted", utc(shown.accepted_at)), fact("Rejected", utc(shown.rejected_at), " (", ago(shown.rejected_at), ")"),
        shown.pointer && fact("Place in the caller's document", h("code", null, shown.pointer)),
        shown.place && fact("Place in the payload", h("code", null, shown.place)),
        shown.receipt && fact("Receipt", h("a", { class: "mono", href: link("/rejections/list", { receipt: shown.receipt }) }, shown.receipt)),
        fact("Line", shown.line), shown.status && fact("Status", shown.status),
        fact("Cause", h("a", { class: "mono", href: link("/rejections/list", { group: shown.group }) }, shown.group)),
        shown.predecessor && fact("Came of", other(shown.predecessor)), shown.successor && fact("Became", other(shown.successor)),
        fact("Id", h("code", null, shown.id))),
      h("div", null, h("h2", null, "What to do"), h("p", { class: "quiet" }, shown.advice),
      h("h2", { class: "next" }, "History"), h("ol", { class: "history" }, shown.history.map((step) => h("li", null,
        state(step.state), " ", ago(step.at), step.who && [" by ", h("bdi", null, step.who)], step.why && [": ", h("bdi", null, step.why)],
        step.job && [" in ", h("a", { class: "mono", href: `/jobs/${step.job}` }, `job ${step.job}`)]))),
      h("div", { class: "buttons" },
        shown.state === "open" && changing("Discard …", () => discard({ ids: [shown.id] }, again)),
        shown.state === "discarded" && changing("Restore …", () => restore({ ids: [shown.id] }, again))))),
  ];
}

function payload(shown, look, go, signal) {
  if (shown.gone) return [h("h2", null, "Payload"), h("p", { class: "quiet" }, "Its payload is not in the archive any more. It would stand here, and could be mended.")];
  const isEdited = shown.state === "open" && about.may_change;
  const said = h("div", { role: "status" });
  return [
    h("div", { class: "titled" }, h("h2", null, "Payload"),
      shown.masked
        ? h("span", { class: "act" }, h("button", {
          type: "button",
          click: () => look(true).catch((error) => fill(said, failure(error))),
        }, "Show personal data"), h("small", null, "this is logged with your name"))
        : h("button", { type: "button", click: () => look(false) }, "Hide personal data")),
    said,
    isEdited ? editor(shown, go, signal) : [
      h("div", { class: "payload", tabindex: "0", role: "region", "aria-label": "Payload" }, marked(shown.text, shown.place_line)),
      shown.state === "open" && h("p", { class: "quiet" }, "To mend it, you need lambda:InvokeFunction on the alias admin."),
    ],
  ];
}

/** Returns a text with one of its lines marked. */
function marked(text, line) {
  const lines = text.split("\n");
  if (lines.length > MARKED_LINES) return h("pre", null, text);
  return h("pre", null, lines.map((each, index) => h("span", { class: index + 1 === line ? "line bad" : "line" }, `${each}\n`)));
}

function editor(shown, go, signal) {
  const behind = h("div", { class: "behind", "aria-hidden": "true" });
  const text = h("textarea", { class: "text", spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-label": "Payload, as JSON", "aria-describedby": "verdict", value: shown.text });
  const verdict = h("div", { id: "verdict", role: "status", class: "verdict" });
  const send = changing("Plan to send it …", async () => {
    clearTimeout(timer);
    await plan(text.value === shown.text ? { ids: [shown.id] } : { edit: edit() }, verdict, go);
  }, { class: "main" });
  const edit = () => ({ id: shown.id, shown: shown.text, text: text.value, masked: shown.masked });
  const mark = (line) => fill(behind, marked(text.value, line));
  let timer = 0;
  let asked = 0;
  const judge = async () => {
    const number = (asked += 1);
    try {
      const judged = await ask("rejections/edit", edit(), signal);
      if (number !== asked) return;
      mark(judged.line ?? (judged.passes ? null : text.value === shown.text ? shown.place_line : null));
      fill(verdict, judgement(judged));
    } catch (error) {
      if (number === asked && !signal.aborted) fill(verdict, failure(error));
    }
  };
  text.addEventListener("input", () => {
    mark(null);
    fill(verdict, h("p", { class: "quiet" }, "Checking …"));
    asked += 1;
    clearTimeout(timer);
    timer = setTimeout(judge, PAUSE);
  });
  mark(shown.place_line);
  judge();
  const frame = h("div", { class: "payload editor" }, behind, text);
  requestAnimationFrame(function reveal() {
    if (signal.aborted) return;
    if (!frame.isConnected) return requestAnimationFrame(reveal);
    const bad = behind.querySelector(".bad");
    if (bad) frame.scrollTop = bad.offsetTop - frame.offsetTop - frame.clientHeight / 2;
  });
  return [
    frame,
    verdict,
    h("div", { class: "buttons" }, send, h("button", { type: "button", click: () => { text.value = shown.text; mark(shown.place_line); judge(); } }, "Undo all changes")),
    shown.masked && h("p", { class: "quiet" }, "Texts that could name a person are hidden as ***. Left as they are, they are sent as they were."),
  ];
}

function judgement(judged) {
  const where = judged.line ? ` (line ${judged.line}${judged.column ? `, column ${judged.column}` : ""})` : "";
  const changes = (judged.changes ?? []).map((each) => h("li", null, each.op, " ", h("code", null, each.path || "the whole"), each.value !== undefined && [" ", h("code", null, each.value)]));
  return [
    judged.passes
      ? h("p", { class: "good" }, changes.length ? `It passes now: ${counted(judged.events, "event")} can be sent.` : `It passes as it is: ${counted(judged.events, "event")} can be sent.`)
      : h("p", { class: "failure" }, judged.column ? `${judged.why}${where}` : `It would still be refused: ${judged.why}${where}`),
    changes.length ? h("ul", { class: "changes" }, changes) : null,
  ];
}
