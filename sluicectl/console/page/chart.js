// Draws numbers over time as a small line, in SVG.

import { count, h, s, utc } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 64;
const ROOM = 3;

/** Returns a chart of series `{name, points: [[moment, number or null], …]}`, each in a colour of its own.
 *
 * `top` is the least number at the upper edge. Between points without a number there is no line. */
export function chart(title, series, { top = 1, unit = "" } = {}) {
  const points = series.flatMap((each) => each.points.filter(([, number]) => number !== null));
  if (points.length < 2) return h("p", { class: "chart none" }, points.length ? "Drawn from the next look on." : "No numbers yet.");
  const times = points.map(([moment]) => Date.parse(moment));
  const [from, to] = [Math.min(...times), Math.max(...times)];
  const most = Math.max(top, ...points.map(([, number]) => number));
  const x = (moment) => ((Date.parse(moment) - from) / Math.max(1, to - from)) * WIDTH;
  const y = (number) => HEIGHT - ROOM - (number / most) * (HEIGHT - 2 * ROOM);
  const said = series.map((each) => `${each.name} ${count(each.points.findLast(([, number]) => number !== null)?.[1])}${unit}`);
  const drawing = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${title}: now ${said.join(", ")}; at most ${count(most)}${unit}`,
  },
  s("line", { x1: 0, x2: WIDTH, y1: HEIGHT - ROOM, y2: HEIGHT - ROOM, class: "base" }),
  series.flatMap((each, index) => runs(each.points).map((run) => {
    const line = run.map(([moment, number]) => `${x(moment).toFixed(1)},${y(number).toFixed(1)}`);
    const end = `${x(run.at(-1)[0]).toFixed(1)},${HEIGHT - ROOM}`;
    const begin = `${x(run[0][0]).toFixed(1)},${HEIGHT - ROOM}`;
    return [
      index === 0 && !each.isLimit && s("polygon", { points: [begin, ...line, end].join(" "), class: "area" }),
      s("polyline", { points: line.join(" "), class: each.isLimit ? "limit" : `line line-${index + 1}` }),
    ];
  })));
  return h("figure", { class: "chart" }, drawing, h("figcaption", null,
    h("span", null, utc(new Date(from).toISOString()).slice(11, 16)),
    h("span", null, `max ${count(Math.round(most * 10) / 10)}${unit}`),
    h("span", null, utc(new Date(to).toISOString()).slice(11, 16), " UTC")));
}

/** Returns the runs of points that have a number. */
function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point[1] === null) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((run) => run.length);
}
