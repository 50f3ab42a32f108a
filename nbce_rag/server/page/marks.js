// Where the numbers of citations stand in an answer: never in the midst of code. Offsets are UTF-16 units.

const ITEM = /^(?:(?:[-*+\u2022]|\d{1,3}[.)])(?:\s+|$)|\d{1,3}\u3001|[(\uff08]\d{1,3}[)\uff09])/;
const FENCE = /^(`{3,})[^`]*$|^(~{3,})/;

/** The fenced code blocks of a text: [{start, end}], ordered; one that is never closed goes on to the end. */
export function codeBlocks(text) {
  const blocks = [];
  let fence = "";
  let start = 0;
  let at = 0;
  for (const line of text.split("\n")) {
    const bare = line.trim();
    if (!fence) {
      const sign = FENCE.exec(bare) || FENCE.exec(bare.replace(ITEM, "").trim());
      if (sign) [fence, start] = [sign[1] || sign[2], at];
    } else if (bare.startsWith(fence) && [...bare].every((one) => one === fence[0])) {
      blocks.push({ start, end: at + line.length });
      fence = "";
    }
    at += line.length + 1;
  }
  if (fence) blocks.push({ start, end: text.length });
  return blocks;
}

/** Marks [{at, places, ownLine}] of citations [{end, supports}]: which passages are named where. */
export function citationMarks(text, citations, blocks = codeBlocks(text)) {
  const marks = new Map();
  for (const citation of citations) {
    const block = blocks.find((one) => one.start < citation.end && citation.end <= one.end);
    const at = block ? block.end : behindSigns(text, spanEnd(text, citation.end), blocks);
    const places = new Set(marks.get(at)?.places || []);
    citation.supports.forEach((support) => places.add(support.place));
    marks.set(at, { at, places: [...places], ownLine: Boolean(block) && text[block.end - 1] !== "\n" });
  }
  return [...marks.values()].sort((a, b) => a.at - b.at);
}

const SIGNS = /^[.,;:!?。，、；：！？)\]”’»]+(?=\s|$)|^[。，、；：！？]+/;

/** Behind the signs that follow a word without a blank, as numbers of notes stand. */
function behindSigns(text, at, blocks) {
  const end = at + (SIGNS.exec(text.slice(at, at + 8))?.[0].length || 0);
  return blocks.some((block) => block.start < end && at < block.end) ? at : end;
}

/** Where the code span between backticks around `at` ends within its line; `at` where there is none. */
function spanEnd(text, at) {
  const from = text.lastIndexOf("\n", at - 1) + 1;
  const to = text.indexOf("\n", at);
  const line = text.slice(from, to < 0 ? text.length : to);
  const runs = [...line.matchAll(/`+/g)].map((run) => [from + run.index, from + run.index + run[0].length]);
  while (runs.length && runs[0][0] < at) {
    const [start, end] = runs.shift();
    const closing = runs.findIndex((run) => run[1] - run[0] === end - start);
    if (closing < 0) continue;
    if (at < runs[closing][1]) return runs[closing][1];
    runs.splice(0, closing + 1);
  }
  return at;
}
