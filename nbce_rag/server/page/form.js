// The question, the index that it goes to, and what may be set for it.

import { html, useEffect, useRef } from "./vendor/preact-htm.js";
import { Upload } from "./upload.js";
import { useWords } from "./words.js";

const MOST_PASSAGES = 64;
const OPERATORS = ["$eq", "$ne", "$gte", "$lte", "$contains"];

export function Form({ question, onQuestion, options, onOptions, indexes, rules, isRunning, onAsk, onStop, onIndexes, field, isFirst }) {
  const words = useWords();
  const chosen = indexes.find((one) => one.id === options.index);
  const submit = (event) => {
    event.preventDefault();
    if (question.trim() && options.index) onAsk();
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form class="form" onSubmit=${submit} role="search" aria-label=${words.title}>
    <label class="sr" for="question">${words.question}</label>
    <div class="grow" data-text=${question}>
      <textarea
        id="question"
        ref=${field}
        rows="1"
        dir="auto"
        placeholder=${isFirst ? words.placeholder : words.askMore}
        value=${question}
        maxlength="20000"
        enterkeyhint="send"
        onInput=${(event) => onQuestion(event.currentTarget.value)}
        onKeyDown=${onKey}
      ></textarea>
    </div>
    <div class="row form-row">
      ${indexes.length > 1
        ? html`<label class="sr" for="index">${words.index}</label>
            <select id="index" value=${options.index} onChange=${(event) => onOptions({ index: event.currentTarget.value })}>
              ${indexes.map((one) => html`<option key=${one.id} value=${one.id}>${one.id}</option>`)}
            </select>`
        : ""}
      ${chosen && html`<span class="small count">${indexes.length === 1 ? `${chosen.id} · ` : ""}${words.passages(chosen.passages)}</span>`}
      <span class="space"></span>
      ${isRunning
        ? html`<button key="stop" type="button" class="primary" onClick=${onStop}>${words.stop}</button>`
        : html`<button key="ask" type="submit" class="primary" disabled=${!question.trim() || !options.index}>${words.ask}</button>`}
    </div>
    <details class="options">
      <summary>${words.options}${summaryOf(options, words)}</summary>
      <div class="options-body">
        <div class="row">
          <label>${words.k} <input type="number" min="1" max=${MOST_PASSAGES} step="1" value=${options.k}
            onInput=${(event) => isCount(event.currentTarget.value) && onOptions({ k: Number(event.currentTarget.value) })}
            onBlur=${(event) => isCount(event.currentTarget.value) || (event.currentTarget.value = options.k)} /></label>
          <label>${words.rule}${" "}
            <select value=${options.rule} onChange=${(event) => onOptions({ rule: event.currentTarget.value })}>
              <option value="">${words.ruleDefault}</option>
              ${rules.map((rule) => html`<option key=${rule} value=${rule}>${rule}</option>`)}
            </select></label>
        </div>
        ${["look", "conflicts"].map(
          (name) => html`<label key=${name} class="check"
            ><input type="checkbox" checked=${options[name]} onChange=${(event) => onOptions({ [name]: event.currentTarget.checked })} />
            ${words[name]}</label
          >`,
        )}
        <${Filters} filters=${options.filters} onFilters=${(filters) => onOptions({ filters })} />
        ${chosen?.writable && html`<${Upload} index=${chosen.id} onDone=${onIndexes} />`}
      </div>
    </details>
  </form>`;
}

function isCount(text) {
  return /^\d{1,3}$/.test(text) && Number(text) >= 1 && Number(text) <= MOST_PASSAGES;
}

/** What of the options is not as it comes, for the line that opens them. */
function summaryOf(options, words) {
  const count = options.filters.filter((one) => one.name && one.value).length;
  return count ? ` · ${words.filters} ${count}` : "";
}

function Filters({ filters, onFilters }) {
  const words = useWords();
  const box = useRef();
  const before = useRef(filters.length);
  useEffect(() => {
    const isAdded = filters.length > before.current;
    before.current = filters.length;
    if (isAdded) box.current.querySelector(".filter:last-of-type input").focus();
  }, [filters.length]);
  const change = (nth, changes) => onFilters(filters.map((one, n) => (n === nth ? { ...one, ...changes } : one)));
  const add = () => onFilters([...filters, { name: "", op: "$eq", value: "" }]);
  const remove = (nth) => {
    onFilters(filters.filter((_, n) => n !== nth));
    box.current.querySelector(".add").focus(); // its own button is gone
  };
  return html`<fieldset ref=${box}>
    <legend>${words.filters}</legend>
    ${filters.map(
      (one, nth) => html`<div key=${nth} class="row filter">
        <input aria-label=${words.filterName} placeholder=${words.filterName} value=${one.name}
          onInput=${(event) => change(nth, { name: event.currentTarget.value })} />
        <select aria-label=${words.filterOp} value=${one.op} onChange=${(event) => change(nth, { op: event.currentTarget.value })}>
          ${OPERATORS.map((op) => html`<option key=${op} value=${op}>${words.ops[op]}</option>`)}
        </select>
        <input aria-label=${words.filterValue} placeholder=${words.filterValue} value=${one.value}
          onInput=${(event) => change(nth, { value: event.currentTarget.value })} />
        <button type="button" class="plain" aria-label=${words.removeFilter} onClick=${() => remove(nth)}>✕</button>
      </div>`,
    )}
    <button type="button" class="quiet-button add" onClick=${add}>${words.addFilter}</button>
  </fieldset>`;
}
