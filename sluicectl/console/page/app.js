// Shows the page that the address names, and follows links without loading anything anew.

import { about, learn } from "./api.js";
import { failure, fill, h } from "./dom.js";
import { overview } from "./overview.js";
import { groups, records } from "./rejections.js";
import { record } from "./record.js";
import { job, jobs } from "./jobs.js";
import { sources } from "./sources.js";
import { accounts } from "./accounts.js";

const PAGES = [
  [/^\/$/, "Overview", overview],
  [/^\/rejections$/, "Rejections", groups],
  [/^\/rejections\/list$/, "Rejections", records],
  [/^\/rejections\/([0-9a-f]{32})$/, "Rejections", record],
  [/^\/jobs$/, "Jobs", jobs],
  [/^\/jobs\/([0-9a-f]{20})$/, "Jobs", job],
  [/^\/sources$/, "Sources", sources],
  [/^\/accounts$/, "Accounts", accounts],
];
const NAVIGATION = { Overview: "/", Rejections: "/rejections", Jobs: "/jobs", Sources: "/sources", Accounts: "/accounts" };

const main = document.querySelector("main");
let leaving = new AbortController();

/** Goes to another page. */
export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  return show();
}

/** Repeats something for as long as the page is shown and seen; an error is told, and it goes on. */
function repeated(signal) {
  return (seconds, act) => {
    const timer = setInterval(() => !document.hidden && !signal.aborted && act(), seconds * 1000);
    signal.addEventListener("abort", () => clearInterval(timer));
  };
}

async function show() {
  leaving.abort();
  const { signal } = (leaving = new AbortController());
  const url = new URL(location.href);
  const [pattern, name, page] = PAGES.find(([each]) => each.test(url.pathname)) ?? [/$/, "", nothing];
  document.title = name ? `${name} · Sluice` : "Sluice";
  fill(document.querySelector("nav"), Object.entries(NAVIGATION).map(([label, path]) =>
    h("a", { href: path, "aria-current": label === name ? "page" : null }, label)));
  document.querySelectorAll("dialog").forEach((each) => each.close());
  const place = h("div", { class: "page", "aria-busy": "true" });
  try {
    const made = page({ url, id: url.pathname.match(pattern)?.[1], place, signal, go, repeat: repeated(signal) });
    const slow = setTimeout(() => !signal.aborted && fill(main, h("p", { class: "wait" }, "Asking the deployment …")), 300);
    try {
      await made;
    } finally {
      clearTimeout(slow);
    }
  } catch (error) {
    if (!signal.aborted) fill(place, h("h1", null, name || "Sluice"), failure(error));
  }
  if (signal.aborted) return;
  place.removeAttribute("aria-busy");
  fill(main, place);
  if (document.activeElement === document.body || !document.activeElement?.isConnected) main.focus({ preventScroll: true });
}

async function nothing({ place }) {
  fill(place, h("h1", null, "There is no such page"), h("p", null, "The address may be of another version of the console."));
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[href]");
  const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!anchor || !isPlain || anchor.origin !== location.origin || anchor.hash) return;
  event.preventDefault();
  document.activeElement?.blur();
  scrollTo(0, 0);
  go(anchor.href);
});
addEventListener("popstate", show);

async function begin() {
  const url = new URL(location.href);
  if (url.searchParams.has("token")) {  // the cookie has it now
    url.searchParams.delete("token");
    history.replaceState(null, "", url);
  }
  try {
    await learn();
  } catch (error) {
    return fill(main, failure(error));
  }
  fill(document.querySelector("#deployment"), about.deployment);
  const rights = document.querySelector("#rights");
  rights.hidden = about.may_change;
  fill(rights, about.may_change ? null : "You may look, and change nothing: your permission is for the alias read.");
  await show();
}

begin();
