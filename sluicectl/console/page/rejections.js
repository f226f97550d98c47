// Refused events: the groups of one cause first, then the records.

import { ask } from "./api.js";
import { ago, count, counted, empty, failure, fill, h, link } from "./dom.js";
import { changing, dialog, field, state } from "./parts.js";
import { remember } from "./jobs.js";

const PAGE = 50;
const STATES = ["open", "replaying", "delivered", "rejected_again", "discarded"];
const REASONS = ["malformed", "invalid", "oversized", "refused", "duplicate_unique_id", "probably_recorded", "not_sealed", "dead_letter"];
const FILTERS = ["group", "account", "reason", "metric", "source", "receipt", "since", "until", "state"];

export async function groups({ place, url, signal, go }) {
  const account = url.searchParams.get("account") ?? "";
  const settled = url.searchParams.get("settled") === "1";
  const { groups: found } = await ask("rejections/groups", { account: account || null, settled }, signal);
  const accountField = h("input", { name: "account", value: account, autocomplete: "off" });
  const settledField = h("input", { type: "checkbox", name: "settled", checked: settled });
  const look = () => go(link("/rejections", { account: accountField.value.trim(), settled: settledField.checked ? "1" : "" }));
  fill(place,
    h("h1", null, "Rejections by cause"),
    h("p", { class: "lead" }, "All that was refused for the same reason is one line. ", h("a", { href: "/rejections/list" }, "Look at single records")),
    h("form", { class: "filters few", submit: (event) => { event.preventDefault(); look(); } },
      field("Account", accountField),
      h("label", { class: "check" }, settledField, " also those with nothing open"),
      h("button", { type: "submit" }, "Show")),
    found.length ? h("ul", { class: "rows groups" }, found.map(group)) : empty(
      account || settled ? "No group is meant by this." : "Nothing is open.",
      "Refused events would stand here, one line for each cause, those with the most open events first. Either no event is refused, or all refused ones are dealt with."));
}

function group(each) {
  return h("li", null,
    h("p", { class: "figure" }, h("strong", null, count(each.open)), h("span", null, `of ${count(each.total)}`)),
    h("div", { class: "grow" },
      h("p", null, h("a", { class: "strong", href: link("/rejections/list", { group: each.id, state: each.open ? "open" : "" }) }, h("bdi", null, each.detail))),
      each.pointer && h("p", { class: "mono" }, each.pointer),
      h("p", { class: "quiet" }, [each.reason.replaceAll("_", " "), each.account, ...each.metrics, ...each.sources].flatMap((word, index) => [index ? " · " : null, h("bdi", null, word)])),
      h("p", { class: "quiet" }, "last seen ", ago(each.last_seen), ", first ", ago(each.first_seen))));
}

let person = "";  // an identifier of a person is kept out of the address

export async function records({ place, url, signal, go }) {
  const filters = Object.fromEntries(FILTERS.map((name) => [name, url.searchParams.get(name) ?? ""]));
  const isOfPerson = url.searchParams.get("person") === "1";
  if (!isOfPerson) person = "";
  const selection = given({ ...filters, profile: person });
  const chosen = new Set();
  const list = h("ul", { class: "rows" });
  const more = h("div", { class: "buttons" });
  const said = h("p", { class: "quiet", role: "status" });
  const meant = h("span", { class: "quiet" });
  const again = () => go(url.href, { replace: true });

  const tell = () => fill(meant, chosen.size ? `The ${counted(chosen.size, "chosen record")}` : Object.keys(changed()).length ? "All that these filters mean" : "Choose records, or give a filter");
  const changed = () => {
    const { state: _, ...rest } = selection;
    return chosen.size ? { ids: [...chosen] } : rest;
  };
  const page = async (after) => {
    const found = await ask("rejections/list", { ...selection, limit: PAGE, next: after }, signal);
    list.append(...found.rejections.map((each) => row(each, chosen, tell)));
    fill(more, found.next && h("button", { type: "button", click: (event) => { event.target.disabled = true; page(found.next).catch((error) => fill(more, failure(error))); } }, "Show more"));
    fill(said, list.children.length ? `${counted(list.children.length, "record")} shown${found.next ? ", and there are more" : ""}` : null);
  };
  const head = [
    h("nav", { class: "back", "aria-label": "Back" }, h("a", { href: "/rejections" }, "All causes")),
    h("h1", null, filters.group ? "Records of one cause" : "Records"),
    form(filters, go),
  ];
  if (isOfPerson && !person) {
    fill(place, head, empty("Whose records are meant?", "The person is not kept in the address. Give the e-mail address, phone number or id again."));
    return;
  }
  const bar = h("div", { class: "bar" }, meant, h("div", { class: "buttons" },
      changing("Send again …", async () => sendAgain(changed(), go), { class: "main" }),
      changing("Discard …", async () => discard(changed(), again)),
      changing("Restore …", async () => restore(changed(), again))));
  fill(place, head, bar, list, said, more);
  tell();
  await page(null);
  if (!list.children.length) {
    bar.remove();
    list.replaceWith(empty("No record is meant by this.", "Refused events would stand here, the last accepted ones first. Take a filter away, or look at all causes."));
  }
}

const given = (all) => Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ""));

function form(filters, go) {
  const text = (name, label, hint = null) => field(label, h("input", { name, value: filters[name] ?? "", autocomplete: "off" }), hint);
  const choice = (name, label, values) => field(label, h("select", { name },
    h("option", { value: "" }, "any"),
    values.map((value) => h("option", { value, selected: filters[name] === value }, value.replaceAll("_", " ")))));
  const used = Object.values(filters).filter(Boolean).length + Boolean(person);
  const profile = h("input", { name: "profile", value: person, autocomplete: "off" });
  return h("details", { class: "filter", open: innerWidth > 720 }, h("summary", null, used ? `Filters (${used})` : "Filters"),
    h("form", {
      class: "filters",
      submit: (event) => {
        event.preventDefault();
        const asked = Object.fromEntries(new FormData(event.target));
        person = asked.profile.trim();
        delete asked.profile;
        go(link("/rejections/list", { ...asked, person: person ? "1" : "" }));
      },
    },
    text("group", "Group"), text("account", "Account"), choice("state", "State", STATES), choice("reason", "Reason", REASONS),
    text("metric", "Metric"), text("source", "Source"), text("receipt", "Receipt"),
    field("Person", profile, "e-mail, phone number or id; not kept in the address"),
    text("since", "Since", "2026-11-20, 12h or 7d"), text("until", "Until", "as above"),
    h("div", { class: "buttons" }, h("button", { type: "submit" }, "Show"), h("a", { href: "/rejections/list" }, "No filter"))));
}

function row(each, chosen, tell) {
  const box = h("input", {
    type: "checkbox", "aria-label": `Choose ${each.id}`,
    change: () => { box.checked ? chosen.add(each.id) : chosen.delete(each.id); tell(); },
  });
  return h("li", null,
    h("p", { class: "choose" }, box),
    h("div", { class: "grow" },
      h("p", null, h("a", { class: "strong", href: `/rejections/${each.id}` }, h("bdi", null, each.detail)), " ", state(each.state)),
      h("p", { class: "quiet" }, [each.metric, each.source, each.account, each.events > 1 && counted(each.events, "event")].filter(Boolean).flatMap((word) => [h("bdi", null, word), " · "]), h("span", { class: "mono" }, each.id))),
    h("p", { class: "quiet when" }, ago(each.rejected_at)));
}

const required = (selection) => {
  if (!Object.keys(selection).length) throw new Error("Choose records, or give at least one filter: nobody means all of them.");
  return selection;
};

/** Asks how many records are mended, plans to send them, and shows the plan. */
function sendAgain(selection, go) {
  required(selection);
  dialog("Send again, mended", [
    h("p", { class: "quiet" }, "Nothing is sent yet: the plan comes first. Leave the fields empty to send all as they were."),
    field("Value for each one's own refused place", h("input", { name: "fault", class: "mono", placeholder: '"EUR"', autocomplete: "off" }), 'JSON: a text has quotation marks, as "EUR"'),
    field("Other values to set", h("textarea", { name: "set", class: "mono", rows: 2, placeholder: "/events/0/value=9.9" }), "POINTER=JSON, one a line"),
    field("Places to remove", h("textarea", { name: "remove", class: "mono", rows: 2, placeholder: "/profile/attributes/phone_number" }), "POINTER, one a line"),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "trigger_flows" }), " let flows start for events older than a day"),
  ], "Plan", async ({ trigger_flows: flows, ...changes }, said) => {
    await plan({ ...selection, changes, trigger_flows: flows === "on" }, said, go);
  });
}

/** Plans a replay, however long that takes, and goes to its job. */
export async function plan(wish, said, go) {
  let { job, sample } = await ask("rejections/replay/plan", wish);
  while (job.state === "planning") {
    fill(said, `${counted(job.matched, "record")} looked at …`);
    const next = await ask("rejections/replay/plan", { job: job.id });
    job = next.job;
    sample ??= next.sample;
  }
  remember(job.id, sample);
  await go(`/jobs/${job.id}`);
}

/** Makes a change in all that are meant, some at each call; returns how many. */
async function inAll(name, asked, said, key) {
  let total = 0;
  let next = {};
  do {
    const done = await ask(name, { ...asked, ...next });
    total += done[key];
    next = { not_after: done.not_after, next: done.next };
    fill(said, `${count(total)} …`);
  } while (next.next !== null);
  return total;
}

/** Asks why records are not needed, and discards those that are open. */
export async function discard(selection, done) {
  required(selection);
  const counting = h("span");
  const matched = await inAll("rejections/discard", { ...selection, why: "counted", dry_run: true }, counting, "matched");
  if (!matched) throw new Error("No open rejection is meant by this.");
  dialog(`Discard ${counted(matched, "rejection")}?`, [
    h("p", { class: "quiet" }, "Nothing is sent of them. It can be taken back for a day."),
    field("Why", h("input", { name: "why", required: true, maxlength: 60, autocomplete: "off" }), "kept with each record, up to 60 characters"),
  ], "Discard", async ({ why }, said) => {
    await inAll("rejections/discard", { ...selection, why: why.trim() }, said, "changed");
    done();
  }, { class: "danger" });
}

/** Opens again what was discarded within a day, after asking. */
export async function restore(selection, done) {
  required(selection);
  const matched = await inAll("rejections/restore", { ...selection, dry_run: true }, h("span"), "matched");
  if (!matched) throw new Error("No rejection that was discarded within a day is meant by this.");
  dialog(`Open ${counted(matched, "rejection")} again?`, [], "Restore", async (_, said) => {
    await inAll("rejections/restore", selection, said, "changed");
    done();
  });
}
