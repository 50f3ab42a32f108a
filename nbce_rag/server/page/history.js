// What was asked before in this tab.

import { html } from "./vendor/preact-htm.js";
import { isSilent } from "./turns.js";
import { useWords } from "./words.js";

export function History({ turns, onTurn, onClear }) {
  const words = useWords();
  if (!turns.length) return null;
  return html`<nav class="history" aria-labelledby="history-head">
    <h2 id="history-head">${words.history}</h2>
    <ul>
      ${turns.map(
        (turn) => html`<li key=${turn.id}>
          <button type="button" onClick=${() => onTurn(turn)}>
            <span class="asked" dir="auto">${turn.question}</span>
            <span class="small" dir="auto">${isSilent(turn.report) ? words.silence : turn.report.answer.slice(0, 120)}</span>
          </button>
        </li>`,
      )}
    </ul>
    <p class="small">${words.historyNote} <button type="button" class="plain" onClick=${onClear}>${words.clearHistory}</button></p>
  </nav>`;
}
