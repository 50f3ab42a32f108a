// What an answer rests on, made ready to be shown: colours, numbers, shares, and its text in stretches.
// All offsets in here are UTF-16 units.

import { citationMarks, codeBlocks } from "./marks.js";

export const COLOURS = 8;
const LEADS = 0.2; // least share with which a passage gets a colour of its own before it is cited
const PACE = 0.75; // how much of the moving shares stays at each token

/** A citation of a report, or of a piece (which has `supports`), as {start, end, supports: [{place, share, verbatim, quoteStart, ...}]}. */
export function citationOf(citation) {
  const supports = (citation.supports || [citation, ...citation.others]).map((one) => ({
    place: one.context_index,
    share: one.share,
    verbatim: one.verbatim,
    quoteStart: one.quote_start,
    quoteEnd: one.quote_end,
    sourceStart: one.source_start,
    sourceEnd: one.source_end,
    page: one.page,
  }));
  return { start: citation.start, end: citation.end, text: citation.text, supports };
}

/** Numbers of passages by their places: the cited ones in the order of their first citation. */
export function numbersOf(citations) {
  const numbers = new Map();
  for (const citation of citations)
    for (const { place } of citation.supports) if (!numbers.has(place)) numbers.set(place, numbers.size + 1);
  return numbers;
}

/** Colours (1 to 8) by place: in the order in which passages lead a word. They stay while the answer grows. */
export function coloursOf(tokens, citations, count) {
  const colours = new Map();
  const give = (place) => colours.has(place) || colours.set(place, (colours.size % COLOURS) + 1);
  for (const token of tokens) {
    const lead = leader(token.weights);
    if (lead >= 0 && token.weights[lead] >= LEADS) give(lead);
  }
  for (const place of numbersOf(citations).keys()) give(place);
  for (let place = 0; place < count; place += 1) give(place);
  return colours;
}

export function leader(weights) {
  let best = -1;
  (weights || []).forEach((weight, place) => {
    if (best < 0 || weight > weights[best]) best = place;
  });
  return best;
}

/** Shares of the passages: of the last words while an answer comes, of all of them once it is there. */
export function sharesOf(tokens, count, isMoving) {
  const shares = new Array(count).fill(0);
  let number = 0;
  for (const { weights } of tokens) {
    if (!weights || weights.length !== count) continue;
    number += 1;
    const part = isMoving ? (number === 1 ? 1 : 1 - PACE) : 1 / number;
    weights.forEach((weight, place) => (shares[place] += (weight - shares[place]) * part));
  }
  return shares;
}

/** Whole percents that sum to 100, as far as there is anything: the largest remainders are rounded up. */
export function percentages(shares) {
  const total = shares.reduce((sum, share) => sum + Math.max(share || 0, 0), 0);
  if (!(total > 0)) return shares.map(() => 0);
  const exact = shares.map((share) => (100 * Math.max(share || 0, 0)) / total);
  const whole = exact.map(Math.floor);
  const order = exact.map((_, place) => place).sort((a, b) => whole[a] - exact[a] - (whole[b] - exact[b]) || a - b);
  const rest = 100 - whole.reduce((sum, one) => sum + one, 0);
  order.slice(0, rest).forEach((place) => (whole[place] += 1));
  return whole;
}

/**
 * An answer in stretches: {kind: "text", text, place, weight, citation, absent} and {kind: "mark", places,
 * citation}, within [{isCode, items}]. Neighbours that look alike are one.
 */
export function stretches({ text, tokens, citations, unsupported }) {
  const blocks = codeBlocks(text);
  const marks = new Map(citationMarks(text, citations, blocks).map((mark) => [mark.at, mark]));
  // The line end behind a block stands in it, so that it does not show as a line of its own.
  const code = blocks.map(({ start, end }) => ({ start, end: end + (text[end] === "\n" && !marks.has(end)) }));
  const cuts = new Set([0, text.length, ...marks.keys()]);
  for (const span of [...tokens, ...citations, ...unsupported, ...code])
    for (const at of [span.start, span.end]) cuts.add(Math.min(Math.max(at, 0), text.length));
  const at = [...cuts].sort((a, b) => a - b);
  const cover = (spans) => {
    let next = 0;
    return (start) => {
      while (next < spans.length && spans[next].end <= start) next += 1;
      return next < spans.length && spans[next].start <= start ? next : -1;
    };
  };
  const [token, citation, absent, block] = [tokens, citations, unsupported, code].map(cover);
  const parts = [];
  const part = (isCode) => {
    if (!parts.length || parts.at(-1).isCode !== isCode) parts.push({ isCode, items: [] });
    return parts.at(-1).items;
  };
  for (let i = 0; i + 1 < at.length; i += 1) {
    const [start, end] = [at[i], at[i + 1]];
    const inToken = token(start);
    const weights = inToken < 0 ? null : tokens[inToken].weights;
    const place = leader(weights);
    const item = {
      kind: "text",
      text: text.slice(start, end),
      place,
      weight: place < 0 ? 0 : Math.round(Math.min(Math.max(weights[place], 0), 1) * 20) / 20,
      citation: citation(start),
      absent: absent(start),
    };
    const items = part(block(start) >= 0);
    const last = items.at(-1);
    const isSame = (key) => last[key] === item[key];
    if (last?.kind === "text" && ["place", "weight", "citation", "absent"].every(isSame)) last.text += item.text;
    else items.push(item);
    const mark = marks.get(end);
    // A mark behind code stands outside of the block.
    if (mark) part(false).push({ kind: "mark", ...mark, citation: lastCited(citations, end) });
  }
  return parts;
}

function lastCited(citations, at) {
  let found = -1;
  citations.forEach((citation, number) => {
    if (citation.end <= at) found = number;
  });
  return found;
}
