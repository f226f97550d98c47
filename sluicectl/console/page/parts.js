// Parts that several pages have: states, buttons that change something, dialogs.

import { about } from "./api.js";
import { failure, fill, h } from "./dom.js";

const READ_ONLY = "You may look and not change: this needs lambda:InvokeFunction on the alias admin.";

/** Returns the state of a record, a job or a circuit. */
export const state = (name) => h("span", { class: `state ${name}` }, name.replaceAll("_", " "));

/** Returns a button that changes something. Without the permission it says so, and does nothing. */
export function changing(label, act, attributes = {}) {
  const said = h("span", { class: "said", role: "status" });
  const button = h("button", {
    type: "button",
    ...attributes,
    "aria-disabled": about.may_change ? null : "true",
    click: async () => {
      if (!about.may_change) return fill(said, READ_ONLY);
      if (button.disabled) return;
      fill(said);
      button.disabled = true;
      try {
        await act();
      } catch (error) {
        fill(said, failure(error));
      } finally {
        button.disabled = false;
      }
    },
  }, label);
  return h("span", { class: "act" }, button, said);
}

/** Shows a dialog with a form, until it is sent or closed. `submit` gets its fields, and may throw why not. */
export function dialog(title, fields, label, submit, attributes = {}) {
  const said = h("div", { role: "status" });
  const send = h("button", { type: "submit", class: attributes.class ?? "main" }, label);
  const form = h("form", {
    submit: async (event) => {
      event.preventDefault();
      send.disabled = true;
      fill(said);
      try {
        await submit(Object.fromEntries(new FormData(form)), said);
        shown.close();
      } catch (error) {
        fill(said, failure(error));
      } finally {
        send.disabled = false;
      }
    },
  }, h("h2", null, title), fields, said,
  h("div", { class: "buttons" }, send, h("button", { type: "button", click: () => shown.close() }, "Cancel")));
  const shown = h("dialog", { "aria-label": title, close: () => shown.remove() }, form);
  document.body.append(shown);
  shown.showModal();
  form.querySelector("input, textarea, select")?.focus();
  return shown;
}

/** Returns a field with its label, and a hint below it. */
export function field(label, input, hint = null) {
  const id = `field-${field.count = (field.count ?? 0) + 1}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint && h("small", { id: `${id}-hint` }, hint));
}
