// A question, its index and its options in the address: behind the #, which browsers send to nobody.

const FIELDS = ["q", "index", "k", "rule", "look", "conflicts", "where"];

/** What stands behind the # of an address: {question, index, k, rule, look, conflicts, filters}. */
export function fromHash(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const result = {};
  if (values.get("q")) result.question = values.get("q");
  if (values.get("index")) result.index = values.get("index");
  if (Number(values.get("k")) >= 1) result.k = Math.min(Math.floor(Number(values.get("k"))), 64);
  if (values.get("rule")) result.rule = values.get("rule");
  for (const name of ["look", "conflicts"]) if (values.has(name)) result[name] = values.get(name) === "1";
  try {
    const filters = JSON.parse(values.get("where") || "[]");
    if (Array.isArray(filters) && filters.every((one) => Array.isArray(one) && one.length === 3))
      result.filters = filters.map(([name, op, value]) => ({ name: `${name}`, op: `${op}`, value: `${value}` }));
  } catch {
    // A link that was cut: the rest of it still serves.
  }
  return result;
}

/** The address that opens a question again. */
export function linkOf(question, options) {
  const filters = options.filters.filter((one) => one.name);
  const values = {
    q: question,
    index: options.index,
    k: options.k,
    rule: options.rule,
    look: options.look ? "1" : "",
    conflicts: options.conflicts ? "" : "0",
    where: filters.length ? JSON.stringify(filters.map((one) => [one.name, one.op, one.value])) : "",
  };
  const hash = new URLSearchParams(FIELDS.filter((name) => values[name]).map((name) => [name, values[name]]));
  return `${location.origin}${location.pathname}#${hash}`;
}

const NUMBER = /^-?\d+(?:\.\d+)?$/;

function valueOf(text) {
  const bare = text.trim();
  if (NUMBER.test(bare)) return Number(bare);
  return { true: true, false: false }[bare] ?? bare;
}

/** Rows of filters as the server's `where`; undefined where there are none. */
export function whereOf(filters) {
  const tests = filters
    .filter((one) => one.name.trim() && one.value.trim())
    .map(({ name, op, value }) => {
      const several = value.split(/[,，]/).filter((part) => part.trim()).map(valueOf);
      if (op === "$eq" && several.length > 1) return { [name.trim()]: { $in: several } };
      return { [name.trim()]: { [op]: valueOf(value) } };
    });
  return tests.length > 1 ? { $and: tests } : tests[0];
}
