// Makes elements. Everything that is shown is a text node: nothing here becomes markup.

const SVG = "http://www.w3.org/2000/svg";
// Controls of a terminal, and those by which a text is shown in another order than it has.
// eslint-disable-next-line no-control-regex
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open"]);

/** Returns a text with the characters in it made visible that would change how it looks. */
export const visible = (text) =>
  String(text).replace(INVISIBLE, (each) => `\\u${each.codePointAt(0).toString(16).padStart(4, "0")}`);

/** Returns an element. Attributes that are functions are listeners; those that are null or false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Returns an element of SVG. */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : visible(value));
  }
  put(element, children);
  return element;
}

function put(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : visible(child));
  }
}

/** Puts children in place of those that an element has. */
export function fill(element, ...children) {
  element.replaceChildren();
  put(element, children);
}

/** Returns a number with its digits grouped; a dash where it is not known. */
export const count = (number) => (number === null || number === undefined ? "–" : number.toLocaleString("en"));

/** Returns a number with its noun, in the plural where it is not one. */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

const UNITS = [[86_400, "d"], [3_600, "h"], [60, "min"]];

/** Returns a length of time in its largest unit. */
export function length(seconds) {
  const unit = UNITS.find(([size]) => seconds >= size);
  return unit ? `${Math.floor(seconds / unit[0])} ${unit[1]}` : `${Math.max(0, Math.floor(seconds))} s`;
}

/** Returns an element that says how long ago a moment was, and the moment itself to those who point at it. */
export function ago(moment) {
  const at = new Date(moment);
  return h("time", { datetime: moment, title: utc(moment) }, `${length((Date.now() - at.getTime()) / 1000)} ago`);
}

/** Returns a moment as people write it, in UTC. */
export const utc = (moment) => `${new Date(moment).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** Returns the path of a page with its parameters, without those that are empty. */
export function link(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return query ? `${path}?${query}` : path;
}

/** Returns what a page shows where it has nothing: what would be here, and how it comes here. */
export const empty = (title, text) => h("div", { class: "empty" }, h("p", { class: "strong" }, title), h("p", null, text));

/** Returns an error as one sentence that screen readers read out. */
export const failure = (error) => h("p", { class: "failure", role: "alert" }, error.message);

/** Returns a name and its value, in a list of such facts; nothing if the value is not there. */
export const fact = (name, ...value) =>
  value.every((each) => each === null || each === undefined || each === "" || each === false)
    ? null
    : h("div", null, h("dt", null, name), h("dd", null, value));
