// The answer: its words in the colours of their passages, and a button behind each cited stretch.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";
import { stretches } from "./evidence.js";
import { nameOf, pageOf } from "./markdown.js";
import { pointsIn, unitsOf } from "./offsets.js";
import { isRunning } from "./turns.js";
import { useWords } from "./words.js";

const STRONGEST = 0.28; // of a colour behind text, which keeps its contrast of 4.5 to 1
const WEAKEST = 0.04;
const AROUND = 90; // code points of a quote's surroundings
const LINGER = 140; // ms that a note stays while the pointer goes to it

export function Answer({ turn, view, colourful, opened, onOpen }) {
  const words = useWords();
  const parts = useMemo(() => stretches(view), [view]);
  const [note, setNote] = useState(null); // {mark, place, anchor}
  const timer = useRef();
  const box = useRef();
  const show = (next) => {
    clearTimeout(timer.current);
    setNote(next);
  };
  const hide = () => {
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setNote(null), LINGER);
  };
  useEffect(() => {
    const onKey = (event) => {
      if (event.key !== "Escape" || !note) return;
      event.stopPropagation();
      show(null);
    };
    document.addEventListener("keydown", onKey, true);
    return () => document.removeEventListener("keydown", onKey, true);
  }, [note]);
  useEffect(() => show(null), [turn.id]);
  const chip = (mark, place, nth) => {
    const passage = turn.passages[place];
    const isNoted = note && note.mark.at === mark.at && note.place === place;
    const isOpen = opened?.turn === turn.id && opened.place === place && opened.at === mark.at;
    const target = (event) => ({ mark, place, anchor: event.currentTarget });
    return html`<button
      key=${`${mark.at}-${nth}`}
      type="button"
      class=${`chip c${view.colours.get(place)}`}
      aria-label=${words.source(view.numbers.get(place), nameOf(passage), pageOf(passage))}
      aria-expanded=${isOpen ? "true" : "false"}
      aria-controls="pane"
      aria-describedby=${isNoted ? "note" : undefined}
      onMouseEnter=${(event) => show(target(event))}
      onMouseLeave=${hide}
      onFocus=${(event) => event.currentTarget.matches(":focus-visible") && show(target(event))}
      onBlur=${hide}
      onClick=${(event) => {
        show(null);
        onOpen({ turn: turn.id, place, at: mark.at, citation: mark.citation }, event.currentTarget);
      }}
    >
      ${view.numbers.get(place)}
    </button>`;
  };
  const item = (one, key) => {
    if (one.kind === "mark")
      return html`<span key=${key} class="chips"
        >${"\u2060"}${one.places.map((place, nth) => chip(one, place, nth))}</span
      >`;
    return html`<${Stretch} key=${key} one=${one} view=${view} colourful=${colourful} />`;
  };
  return html`<div class="answer-box" ref=${box}>
    <div class="answer" dir="auto" aria-busy=${isRunning(turn) ? "true" : "false"}>
      ${parts.map(({ isCode, items }, nth) =>
        isCode ? html`<code key=${nth} class="block" tabindex="0">${items.map(item)}</code>` : items.map((one, i) => item(one, `${nth}-${i}`)),
      )}${isRunning(turn) && html`<span class="caret" aria-hidden="true"></span>`}
    </div>
    ${note &&
    html`<${Note} ...${note} turn=${turn} view=${view} box=${box} onEnter=${() => show(note)} onLeave=${hide} />`}
  </div>`;
}

function Stretch({ one, view, colourful }) {
  const words = useWords();
  const citation = view.citations[one.citation];
  const absent = view.unsupported[one.absent];
  if (!citation && !absent && one.place < 0) return one.text;
  const kinds = [];
  const style = {};
  if (one.place >= 0 && colourful) {
    kinds.push(`tinted c${view.colours.get(one.place)}`);
    style["--w"] = (WEAKEST + (STRONGEST - WEAKEST) * one.weight).toFixed(3);
  }
  if (absent) kinds.push("absent");
  else if (citation) {
    const lead = citation.supports[0];
    kinds.push(`cited u${view.colours.get(lead.place)}`);
    if (citation.supports.some((support) => support.verbatim)) kinds.push("verbatim");
  }
  const said = absent && absence(absent, view, words);
  return html`<span class=${kinds.join(" ")} style=${style} title=${said || undefined}
    >${one.text}${absent && html`<span class="sr"> (${said})</span>`}</span
  >`;
}

/** What is said of words that stand in no passage cited for them. */
export function absence(word, view, words) {
  return word.context_index === null ? words.absent : words.absentHere(view.numbers.get(word.context_index));
}

function Note({ mark, place, anchor, turn, view, box, onEnter, onLeave }) {
  const words = useWords();
  const self = useRef();
  const passage = turn.passages[place];
  const support = view.citations[mark.citation]?.supports.find((one) => one.place === place);
  useLayoutEffect(() => {
    const [frame, chip, note] = [box.current, anchor, self.current].map((one) => one.getBoundingClientRect());
    const left = Math.min(Math.max(chip.left - frame.left - 24, 0), Math.max(frame.width - note.width, 0));
    self.current.style.left = `${left}px`;
    self.current.style.top = `${chip.bottom - frame.top + 8}px`;
  }, [anchor]);
  const page = pageOf(passage);
  const facts = [
    page === null ? "" : words.page(page),
    support && support.share !== null ? words.share(Math.round(support.share * 100)) : "",
    support ? (support.verbatim ? words.verbatim : words.notVerbatim) : "",
  ];
  return html`<div
    ref=${self}
    id="note"
    role="tooltip"
    class=${`note c${view.colours.get(place)}`}
    onMouseEnter=${onEnter}
    onMouseLeave=${onLeave}
  >
    <p class="note-name"><bdi>${nameOf(passage)}</bdi></p>
    <p class="small">${facts.filter(Boolean).join(" · ")}</p>
    ${support?.verbatim && html`<${Quote} text=${passage.text} start=${support.quoteStart} end=${support.quoteEnd} />`}
  </div>`;
}

/** The words that are cited with a little of what stands around them. `start` and `end` are code points. */
function Quote({ text, start, end }) {
  const unit = unitsOf(text);
  const [from, to] = [Math.max(start - AROUND, 0), Math.min(end + AROUND, pointsIn(text))];
  return html`<blockquote dir="auto">
    ${from > 0 && "… "}${text.slice(unit(from), unit(start))}<mark>${text.slice(unit(start), unit(end))}</mark
    >${text.slice(unit(end), unit(to))}${to < pointsIn(text) && " …"}
  </blockquote>`;
}

const END = /[.!?]+["'”’)\]]*(?=\s)|[。！？]+[”’」』）]*|\n/g;
const SAID = 3; // sentences that stand there at a time

/** The sentences of a text; of one that still grows only those that have ended. */
function sentencesOf(text, isDone) {
  const sentences = [];
  let at = 0;
  for (const end of text.matchAll(END)) {
    sentences.push(text.slice(at, end.index + end[0].length));
    at = end.index + end[0].length;
  }
  if (isDone) sentences.push(text.slice(at));
  return sentences.filter((one) => one.trim());
}

/** Says the answer to screen readers, a sentence at a time. */
export function Spoken({ turn, view, status }) {
  const lines = sentencesOf(view.text, !isRunning(turn));
  return html`<div class="sr" aria-live="polite" id="spoken">
    ${lines.map((line, nth) => nth >= lines.length - SAID && html`<p key=${`${turn.id}-${nth}`}>${line}</p>`)}
    <p key="status">${status}</p>
  </div>`;
}
