// Accounts: how each is doing, and its pause.

import { ask } from "./api.js";
import { ago, count, empty, fill, h } from "./dom.js";
import { changing, dialog, field, state } from "./parts.js";

export async function accounts({ place, signal }) {
  const shown = h("div");
  const look = async () => {
    const [listed, status] = await Promise.all([ask("accounts/list", {}, signal), ask("status", {}, signal)]);
    const known = new Map(status.accounts.map((each) => [each.id, each]));
    const named = new Set(listed.accounts.map((each) => each.id));
    const others = status.accounts.filter((each) => !named.has(each.id)).map((each) => ({ id: each.id, kind: null, base_url: null, keys: [] }));
    const all = [...listed.accounts, ...others];
    fill(shown,
      listed.problems.map((problem) => h("p", { class: "failure" }, problem)),
      all.length ? h("ul", { class: "rows" }, all.map((each) => row(each, known.get(each.id), look)))
        : empty("There is no account yet.", "Accounts that events are sent to would stand here, with their circuit and their pace. sluicectl accounts add adds one."));
  };
  await look();
  fill(place, h("h1", null, "Accounts"),
    h("p", { class: "lead" }, "Where events are sent, and who may send them. sluicectl accounts changes them; here they are paused and resumed."), shown);
}

function row(account, now, look) {
  const pace = now?.pace;
  const isPaused = now?.circuit === "paused";
  return h("li", null,
    h("div", { class: "grow" },
      h("p", null, h("strong", null, account.id), " ", now && state(now.circuit)),
      now?.why && h("p", null, h("bdi", null, now.why), now.since && [", since ", ago(now.since)], now.who && [" (", h("bdi", null, now.who), ")"]),
      h("p", { class: "quiet" }, account.kind ? [`${account.kind} at `, h("bdi", null, account.base_url)] : "not in the accounts document, with messages parked"),
      account.keys.length ? h("p", { class: "quiet" }, "keys: ", account.keys.map((key, index) => [index ? ", " : null, h("code", null, key.id), ` (${key.scopes.join(", ")})`])) : null,
      account.kind && h("div", { class: "buttons" }, isPaused
        ? changing("Resume", async () => { await ask("accounts/resume", { account: account.id }); await look(); })
        : changing("Pause …", async () => pause(account.id, look)))),
    h("p", { class: "figure" }, h("strong", null, pace ? count(pace.used ?? pace.allowed) : "–"), h("span", null, pace?.used === null ? "a minute allowed" : pace ? `of ${count(pace.allowed)} a minute` : "pace")),
    h("p", { class: "figure" }, h("strong", null, now ? `${count(now.parked)}${now.parked_more ? "+" : ""}` : "–"), h("span", null, "parked")));
}

function pause(id, look) {
  dialog(`Pause ${id}?`, [
    h("p", { class: "quiet" }, "Its events are accepted and parked until somebody resumes it. No probe ends the pause."),
    field("Why", h("input", { name: "why", required: true, maxlength: 500, autocomplete: "off" }), "shown in the status as long as it lasts"),
  ], "Pause", async ({ why }) => {
    await ask("accounts/pause", { account: id, why: why.trim() });
    await look();
  });
}
