// The passages below an answer: their shares as a bar, those that are cited, and those that were only read.

import { html } from "./vendor/preact-htm.js";
import { percentages } from "./evidence.js";
import { fileOf, nameOf, pageOf } from "./markdown.js";
import { unitsOf } from "./offsets.js";
import { useWords } from "./words.js";

const CHARACTERS = 420;

export function Bar({ view, isMoving }) {
  const words = useWords();
  const percents = percentages(view.shares);
  const order = [...view.numbers.entries()].sort((a, b) => a[1] - b[1]).map(([place]) => place);
  const spoken = order.filter((place) => percents[place]).map((place) => `[${view.numbers.get(place)}] ${percents[place]} %`);
  const label = isMoving ? words.movingBar : words.wholeBar;
  if (!percents.some(Boolean)) return null;
  return html`<div class="bar-box">
    <div class="bar" role="img" aria-label=${isMoving ? label : `${label}: ${spoken.join(", ")}`}>
      ${order.filter((place) => percents[place]).map(
        (place) =>
          html`<span key=${place} class=${`c${view.colours.get(place)}`} style=${{ flexGrow: percents[place] }}
            >${percents[place] >= 8 && view.cited.has(place) ? view.numbers.get(place) : ""}</span
          >`,
      )}
    </div>
    <p class="small" aria-hidden="true">${label}</p>
  </div>`;
}

export function Sources({ turn, view, opened, onOpen, silent }) {
  const words = useWords();
  const percents = percentages(view.shares);
  const order = [...view.numbers.entries()].sort((a, b) => a[1] - b[1]).map(([place]) => place);
  const cited = order.filter((place) => view.cited.has(place));
  const rest = order.filter((place) => !view.cited.has(place));
  const entry = (place) =>
    html`<${Source} key=${place} ...${{ turn, view, place, percent: percents[place], opened, onOpen }} />`;
  // Of a silence the nearest passages are all there is to see.
  if (silent)
    return html`<section aria-label=${words.sources} class="sources"><ol class="list">${rest.map(entry)}</ol></section>`;
  return html`<section aria-labelledby="sources-head" class="sources">
    <h3 id="sources-head">${words.sources}</h3>
    ${cited.length ? html`<ol class="list">${cited.map(entry)}</ol>` : html`<p class="small">${words.noSources}</p>`}
    ${rest.length > 0 &&
    html`<details class="more">
      <summary>${words.notCited(rest.length)}</summary>
      <ol class="list">${rest.map(entry)}</ol>
    </details>`}
  </section>`;
}

/** A passage of the list. Its name opens it in its source. */
export function Source({ turn, view, place, percent, opened, onOpen }) {
  const words = useWords();
  const passage = turn.passages[place];
  const isCited = view.cited.has(place);
  const number = view.numbers.get(place);
  const supports = view.citations.flatMap((one) => one.supports.filter((support) => support.place === place));
  const verbatim = supports.filter((one) => one.verbatim);
  const page = pageOf(passage);
  const facts = [
    passage.title && passage.source ? fileOf(passage.source) : "",
    page === null ? "" : words.page(page),
    percent ? words.share(percent) : "",
    isCited ? (verbatim.length === supports.length ? words.verbatim : verbatim.length ? "" : words.notVerbatim) : "",
  ];
  const isOpen = opened?.turn === turn.id && opened.place === place;
  const first = view.citations.findIndex((one) => one.supports.some((support) => support.place === place));
  return html`<li class=${`source c${view.colours.get(place)} ${isCited ? "" : "quiet"}`}>
    <button
      type="button"
      class="source-name"
      aria-expanded=${isOpen ? "true" : "false"}
      aria-controls="pane"
      aria-label=${isCited ? words.source(number, nameOf(passage), page) : nameOf(passage)}
      onClick=${(event) => onOpen({ turn: turn.id, place, at: -1, citation: first }, event.currentTarget)}
    >
      ${isCited && html`<span class="number" aria-hidden="true">${number}</span>`}<bdi>${nameOf(passage)}</bdi>
    </button>
    <p class="small">${facts.filter(Boolean).join(" · ")}</p>
    ${nameOf(passage) !== passage.text && html`<${Excerpt} text=${passage.text} spans=${verbatim} />`}
  </li>`;
}

/** The beginning of a passage, or what stands around its first quote, with the quotes marked. */
function Excerpt({ text, spans }) {
  const unit = unitsOf(text);
  const marks = joined(spans.map((one) => [unit(one.quoteStart), unit(one.quoteEnd)]));
  const first = marks.length ? marks[0][0] : 0;
  const from = first > CHARACTERS / 2 ? wordStart(text, first - Math.floor(CHARACTERS / 3)) : 0;
  const to = Math.max(wordStart(text, from + CHARACTERS), marks.length ? marks[0][1] : 0);
  return html`<blockquote dir="auto">
    ${from > 0 && "… "}${marked(text, from, to, marks)}${to < text.length && " …"}
  </blockquote>`;
}

/** Spans [start, end], ordered, without overlaps. */
export function joined(spans) {
  const result = [];
  for (const [start, end] of [...spans].sort((a, b) => a[0] - b[0])) {
    if (result.length && start <= result.at(-1)[1]) result.at(-1)[1] = Math.max(result.at(-1)[1], end);
    else result.push([start, end]);
  }
  return result;
}

/** A part of a text with its marks, as children of an element. */
export function marked(text, from, to, marks) {
  const parts = [];
  let at = from;
  for (const [start, end] of marks) {
    if (start < at || end > to) continue;
    parts.push(text.slice(at, start), html`<mark>${text.slice(start, end)}</mark>`);
    at = end;
  }
  return [...parts, text.slice(at, to)];
}

function wordStart(text, near) {
  if (near >= text.length) return text.length;
  const blank = text.lastIndexOf(" ", near);
  let at = near - blank < 30 && blank > 0 ? blank + 1 : near;
  if (/[\udc00-\udfff]/.test(text[at] || "")) at += 1; // never in the midst of a sign
  return at;
}
