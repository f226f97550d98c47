// Sources of webhooks, and a box to try what a payload becomes.

import { ask } from "./api.js";
import { counted, empty, failure, fill, h } from "./dom.js";
import { field } from "./parts.js";

const PAUSE = 400;

export async function sources({ place, url, signal }) {
  const found = await ask("sources/show", {}, signal);
  const flaws = Object.entries(found.flaws);
  fill(place, h("h1", null, "Sources"),
    h("p", { class: "lead" }, "Who may post webhooks, and which events they become. sluicectl sources put changes them."),
    flaws.map(([name, flaw]) => h("p", { class: "failure" }, h("strong", null, name), ` does not work: ${flaw}`)),
    found.sources.length ? [
      h("ul", { class: "rows" }, found.sources.map((each) => h("li", null, h("div", { class: "grow" },
        h("p", { class: "strong" }, each.name),
        h("p", { class: "quiet" }, `for ${each.account}, signed as ${each.scheme}${each.refuses ? "; what is invalid is refused and not kept" : ""}`),
        h("p", { class: "quiet" }, each.events.join(", ")))))),
      tryBox(found.sources, url.searchParams.get("source"), signal),
      h("details", null, h("summary", null, "The stored document"), h("div", { class: "payload", tabindex: "0", role: "region", "aria-label": "The stored document" }, h("pre", null, found.document))),
    ] : empty("There is no source yet.", "Senders of webhooks would stand here, with a box to try payloads. sluicectl sources put stores a document of them."));
}

function tryBox(all, first, signal) {
  const source = h("select", { name: "source" }, all.map((each) => h("option", { value: each.name, selected: each.name === first }, each.name)));
  const headers = h("textarea", { class: "mono", rows: 2, spellcheck: "false", placeholder: "X-Shopify-Topic: orders/create" });
  const payload = h("textarea", { class: "mono", rows: 10, spellcheck: "false", placeholder: '{"id": 1, "email": "ada@example.com"}' });
  const result = h("div", { role: "status" }, h("p", { class: "quiet" }, "The events that the payload becomes would stand here, with every problem."));
  let timer = 0;
  let asked = 0;
  const attempt = async () => {
    const number = (asked += 1);
    if (!payload.value.trim()) return;
    try {
      const tried = await ask("sources/try", { source: source.value, headers: headers.value, payload: payload.value }, signal);
      if (number === asked) fill(result, drawn(tried));
    } catch (error) {
      if (number === asked && !signal.aborted) fill(result, failure(error));
    }
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(attempt, PAUSE);
  };
  for (const each of [source, headers, payload]) each.addEventListener("input", soon);
  return h("section", null, h("h2", null, "Try a payload"),
    h("p", { class: "quiet" }, "Nothing is sent, and no signature is asked for."),
    h("div", { class: "columns" },
      h("div", null, field("Source", source), field("Headers", headers, "NAME: VALUE, one a line"), field("Payload", payload, "JSON, or a form if a header Content-Type says so")),
      result));
}

function drawn(tried) {
  const told = (what, problems) => problems.map((each) => h("p", { class: what === "left out" || what === "replaced" ? "warning" : "failure" }, `${what}: `, each.pointer && [h("code", null, each.pointer), " "], each.detail));
  return [
    h("p", null, h("strong", null, counted(tried.events.length, "event")), ` for ${tried.account}`, tried.topics && `; topic ${tried.topic ?? "unknown"}, of ${tried.topics.join(", ")}`),
    told("not mapped", tried.problems), told("replaced", tried.replaced),
    tried.events.map((each) => h("article", { class: each.valid ? "tried" : "tried refused" },
      h("h3", null, h("bdi", null, each.metric)),
      told("refused", each.problems), told("left out", each.left_out),
      each.waits ? h("p", { class: "warning" }, "waits: a later delivery may say whose this is") : null,
      h("div", { class: "payload", tabindex: "0", role: "region", "aria-label": "Event" }, h("pre", null, each.text)))),
    tried.events.length || tried.problems.length ? null : h("p", { class: "quiet" }, "No mapping of this source is meant for this payload."),
  ];
}
