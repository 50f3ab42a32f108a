// The server counts code points, strings here count UTF-16 units: offsets are converted once, where they arrive.

const ASTRAL = /[\ud800-\udbff][\udc00-\udfff]/;

/** A function from code points of `text` to UTF-16 units of it. Beyond its end it stays at the end. */
export function unitsOf(text) {
  if (!ASTRAL.test(text)) return (at) => Math.min(Math.max(at, 0), text.length);
  const units = [];
  let at = 0;
  for (const sign of text) {
    units.push(at);
    at += sign.length;
  }
  return (point) => (point < 0 ? 0 : point < units.length ? units[point] : text.length);
}

/** `spans` ({start, end, ...}) of `text`, from code points to UTF-16 units. */
export function inUnits(text, spans) {
  const unit = unitsOf(text);
  return spans.map((span) => ({ ...span, start: unit(span.start), end: unit(span.end) }));
}

/** How many code points a text has. */
export function pointsIn(text) {
  return ASTRAL.test(text) ? Array.from(text).length : text.length;
}
