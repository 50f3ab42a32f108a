// What each passage says when it answers by itself: groups of passages that say the same.

import { html } from "./vendor/preact-htm.js";
import { Failure } from "./failure.js";
import { nameOf, pageOf } from "./markdown.js";
import { useWords } from "./words.js";

const HARDLY = 0.01; // of the weight: what is said with less stands folded

/** `comparison`: {state: "running"|"done"|"failed", data, error}; its passages are found by id among the turn's. */
export function Compare({ turn, view, comparison, opened, onCompare, onOpen }) {
  const words = useWords();
  if (!comparison)
    return html`<p><button type="button" class="quiet-button" onClick=${onCompare}>${words.compare}</button></p>`;
  const { state, data, error } = comparison;
  const slight = state === "done" ? data.groups.filter((one) => one.weight < HARDLY) : [];
  return html`<section class="compare" aria-labelledby="compare-head" aria-busy=${state === "running" ? "true" : "false"}>
    <h3 id="compare-head">${words.compare}</h3>
    <div role="status">
      ${state === "running" && html`<p class="small">${words.comparing}</p>`}
      ${state === "done" && html`<p>${headline(data, words)}</p>`}
    </div>
    ${state === "failed" && html`<${Failure} error=${error} onRetry=${onCompare} />`}
    ${state === "done" &&
    html`<${Groups} groups=${data.groups.filter((one) => one.weight >= HARDLY)} ...${{ turn, view, opened, onOpen }} />`}
    ${state === "done" &&
    slight.length > 0 &&
    html`<details class="more">
      <summary>${words.slight(slight.length)}</summary>
      <${Groups} groups=${slight} ...${{ turn, view, opened, onOpen }} />
    </details>`}
    ${state === "done" &&
    data.silent.length > 0 &&
    html`<p class="small">
      ${words.silent(data.silent.length)}:${" "}
      ${data.silent.map((one) => html`<${Who} key=${one.id} ...${{ one, turn, view, opened, onOpen }} />`)}
    </p>`}
  </section>`;
}

function Groups({ groups, turn, view, opened, onOpen }) {
  const words = useWords();
  return html`<ol class="groups">
    ${groups.map(
      (group, nth) => html`<li key=${nth}>
        <p class="says" dir="auto">${group.text}</p>
        <p class="small">
          ${words.weight(Math.round(group.weight * 100))} ·${" "}
          ${group.passages.map((one) => html`<${Who} key=${one.id} ...${{ one, turn, view, opened, onOpen }} />`)}
        </p>
        <span class="weight" style=${{ width: `${(group.weight * 100).toFixed(1)}%` }} aria-hidden="true"></span>
      </li>`,
    )}
  </ol>`;
}

function headline(data, words) {
  if (!data.groups.length) return words.noneAnswers;
  return data.groups.length === 1 ? words.agree : words.differ(data.groups.length);
}

/** A passage by its name; where the answer has read it too, a way to its source. */
function Who({ one, turn, view, opened, onOpen }) {
  const words = useWords();
  const place = turn.passages.findIndex((passage) => passage.id === one.id);
  if (place < 0) return html`<span class="who"><bdi>${nameOf(one)}</bdi></span>`;
  const isCited = view.cited.has(place);
  const passage = turn.passages[place];
  const isOpen = opened?.turn === turn.id && opened.place === place;
  return html`<button
    type="button"
    aria-expanded=${isOpen ? "true" : "false"}
    class=${`who c${view.colours.get(place)}`}
    aria-controls="pane"
    aria-label=${isCited ? words.source(view.numbers.get(place), nameOf(passage), pageOf(passage)) : nameOf(passage)}
    onClick=${(event) => onOpen({ turn: turn.id, place, at: -1, citation: -1 }, event.currentTarget)}
  >
    ${isCited && html`<span class="number" aria-hidden="true">${view.numbers.get(place)}</span>`}<bdi>${nameOf(passage)}</bdi>
  </button>`;
}

/** Where passages of an answer give other answers, as the engine has it. */
export function Conflicts({ turn, view, opened, onOpen }) {
  const words = useWords();
  const conflicts = turn.report?.conflicts || [];
  if (!conflicts.length) return null;
  return html`<section class="conflict" aria-labelledby="conflict-head">
    <h3 id="conflict-head"><span aria-hidden="true">⚖ </span>${words.disagree}</h3>
    ${conflicts.map(
      (conflict, nth) => html`<ul key=${nth}>
        ${conflict.claims.map(
          (claim, n) => html`<li key=${n}>
            <q dir="auto">${claim.text}</q>
            <span class="small">
              ${claim.context_indexes.map(
                (place) => html`<${Who} key=${place} one=${turn.passages[place]} ...${{ turn, view, opened, onOpen }} />`,
              )}
            </span>
          </li>`,
        )}
      </ul>`,
    )}
  </section>`;
}
