// What the server refused, and what can be done about it.

import { html } from "./vendor/preact-htm.js";
import { key } from "./api.js";
import { useWords } from "./words.js";

export function Failure({ error, onRetry }) {
  const words = useWords();
  const title =
    error.code === "broken" ? words.broken : words.errors[error.code] || words.errors[error.status] || words.errors.other;
  return html`<div class="failure" role="alert">
    <p><strong>${title}</strong></p>
    ${error.message && html`<p dir="auto">${error.message}</p>`}
    ${error.retryAfter !== null && html`<p>${words.retryIn(error.retryAfter)}</p>`}
    ${error.requestId && html`<p class="small">${words.requestId} ${error.requestId}</p>`}
    ${onRetry && html`<p><button type="button" class="quiet-button" onClick=${onRetry}>${words.retry}</button></p>`}
  </div>`;
}

/** Asks for a key, which stays in this tab. */
export function KeyForm({ wasWrong, onKey }) {
  const words = useWords();
  const use = (event) => {
    event.preventDefault();
    const value = new FormData(event.currentTarget).get("key").trim();
    if (!value) return;
    key.set(value);
    onKey();
  };
  return html`<form class="key" onSubmit=${use} aria-labelledby="key-head">
    <h2 id="key-head">${words.keyTitle}</h2>
    ${wasWrong && html`<p role="alert">${words.keyWrong}</p>`}
    <label for="key">${words.keyLabel}</label>
    <div class="row">
      <input id="key" name="key" type="password" autocomplete="off" spellcheck=${false} required aria-describedby="key-note" />
      <button type="submit" class="primary">${words.keyUse}</button>
    </div>
    <p class="small" id="key-note">${words.keyNote}</p>
  </form>`;
}
