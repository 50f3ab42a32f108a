// The page: a question, its answer with what it rests on, and the sources beside it.

import { html, render, useCallback, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";
import { Answer, Spoken, absence } from "./answer.js";
import { getJson, key, postJson } from "./api.js";
import { Compare, Conflicts } from "./compare.js";
import { Failure, KeyForm } from "./failure.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { fromHash, linkOf } from "./links.js";
import { copy, markdownOf } from "./markdown.js";
import { Pane } from "./pane.js";
import { Bar, Sources } from "./sources.js";
import { CODES, LANGUAGES, preferred, remember } from "./strings.js";
import { ask, bodyOf, isRunning, isSilent, newTurn, plainError, storeTurns, storedTurns, viewOf } from "./turns.js";
import { Words } from "./words.js";

const PATIENCE = 3; // seconds until a server that loads its model is asked again
const PLAIN = { index: "", k: 8, rule: "", look: false, conflicts: true, filters: [] };

function App() {
  const [language, setLanguage] = useState(preferred);
  const words = LANGUAGES[language];
  const [linked] = useState(() => fromHash(location.hash));
  const [question, setQuestion] = useState(linked.question || "");
  const [options, setOptions] = useState(() => ({ ...PLAIN, ...linked, question: undefined }));
  const [server, setServer] = useState({ state: "loading", indexes: [], rules: [] });
  const [turns, setTurns] = useState(storedTurns);
  const [turn, setTurn] = useState(null);
  const [comparisons, setComparisons] = useState({});
  const [opened, setOpened] = useState(null); // {turn, place, at, citation}
  const [colourful, setColourful] = useState(true);
  const running = useRef(null);
  const opener = useRef(null);
  const field = useRef(null);

  useEffect(() => {
    document.documentElement.lang = CODES[language];
    document.title = turn ? `${turn.question.slice(0, 60)} – nbce-rag` : `${words.title} – nbce-rag`;
  }, [language, turn?.id]);

  const load = useCallback(async () => {
    try {
      const [indexes, page] = await Promise.all([getJson("v1/indexes"), getJson("page/settings.json")]);
      setServer({ state: "ready", indexes: indexes.data, rules: page.rules });
      setOptions((old) => ({
        ...old,
        index: indexes.data.some((one) => one.id === old.index) ? old.index : indexes.data[0]?.id || "",
        rule: page.rules.includes(old.rule) ? old.rule : "",
      }));
    } catch (error) {
      const told = plainError(error);
      const isLoading = told.code === "loading";
      setServer((old) => ({ ...old, state: isLoading ? "waiting" : "failed", error: told }));
      if (isLoading) setTimeout(load, 1000 * (told.retryAfter || PATIENCE));
    }
  }, []);
  useEffect(() => void load(), []);
  useEffect(() => () => running.current?.abort(), []);

  const close = useCallback(() => {
    setOpened(null);
    opener.current?.focus();
  }, []);
  useEffect(() => {
    const onKey = (event) => event.key === "Escape" && opened && close();
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [opened]);

  const start = async (next) => {
    running.current?.abort();
    const control = new AbortController();
    running.current = control;
    setOpened(null);
    setTurn(next);
    setQuestion("");
    history.replaceState(null, "", linkOf(next.question, next.options));
    let last = next;
    let frame = 0;
    const draw = () => {
      frame = 0;
      setTurn((shown) => (shown?.id === last.id ? last : shown));
    };
    await ask(next, (changed) => {
      last = changed;
      frame ||= requestAnimationFrame(draw); // as often as the screen is drawn, however fast words come
    }, control.signal);
    cancelAnimationFrame(frame);
    draw();
    if (last.error?.status === 401) setServer((old) => ({ ...old, state: "failed", error: last.error }));
    if (last.report)
      setTurns((old) => {
        const kept = [last, ...old.filter((one) => one.id !== last.id)];
        storeTurns(kept);
        return kept;
      });
  };

  const compare = async () => {
    const put = (value) => setComparisons((old) => ({ ...old, [turn.id]: value }));
    put({ state: "running" });
    try {
      put({ state: "done", data: await postJson("v1/compare", bodyOf(turn)) });
    } catch (error) {
      put({ state: "failed", error: plainError(error) });
    }
  };

  const onOpen = useCallback((place, button) => {
    opener.current = button;
    setOpened(place);
  }, []);
  const view = useMemo(() => turn && viewOf(turn), [turn]);
  const asksForKey = server.error?.status === 401;
  const shown = turn && opened?.turn === turn.id ? opened : null;

  return html`<${Words.Provider} value=${words}>
    ${turn && html`<a class="skip" href="#answer" onClick=${(event) => {
      event.preventDefault(); // the address holds the question
      document.getElementById("answer").focus();
    }}>${words.skip}</a>`}
    <div class=${`frame ${shown ? "with-pane" : ""}`}>
      <div class="column">
        <header class="top">
          <a class="mark" href="./" aria-label="nbce-rag">nbce<span>-rag</span></a>
          <span class="space"></span>
          ${key.get() && html`<button type="button" class="plain" onClick=${() => { key.set(""); location.reload(); }}>${words.forgetKey}</button>`}
          <button type="button" class="plain" lang=${language === "en" ? CODES.zh : "en"} aria-label=${words.languageLabel} onClick=${() => {
            const other = language === "en" ? "zh" : "en";
            remember(other);
            setLanguage(other);
          }}>${words.language}</button>
        </header>
        <main>
          ${!turn && html`<div class="welcome"><h1>${words.title}</h1><p>${words.tagline}</p></div>`}
          ${turn && html`<h1 class="sr">${words.title}</h1>`}
          ${asksForKey
            ? html`<${KeyForm} wasWrong=${Boolean(key.get())} onKey=${() => { setServer((old) => ({ ...old, state: "loading", error: null })); load(); }} />`
            : html`<${Form} ...${{ question, options, field, isFirst: !turn }} onQuestion=${setQuestion} indexes=${server.indexes} rules=${server.rules}
                onOptions=${(changes) => setOptions((old) => ({ ...old, ...changes }))} onIndexes=${load}
                isRunning=${isRunning(turn)} onStop=${() => running.current?.abort()}
                onAsk=${() => start(newTurn(question.trim(), options))} />`}
          ${server.state === "ready" && !server.indexes.length && html`<p class="remark">${words.noIndexes}</p>`}
          ${server.state === "waiting" && html`<p class="status running" role="status">${words.serverLoads}</p>`}
          ${server.state === "failed" && !asksForKey && html`<${Failure} error=${server.error} onRetry=${load} />`}
          ${linked.question && !turn && html`<p class="small remark">${words.fromLink}</p>`}
          ${turn && html`<${Turn} ...${{ turn, view, words, colourful, setColourful, opened: shown, onOpen }}
            comparison=${comparisons[turn.id]} onCompare=${compare} onRetry=${() => start(newTurn(turn.question, turn.options))} onEdit=${() => {
              setQuestion(turn.question);
              setOptions(turn.options);
              field.current?.focus();
            }} />`}
          <${History} turns=${turns.filter((one) => one.id !== turn?.id)} onTurn=${(old) => {
            running.current?.abort();
            setOpened(null);
            setTurn(old);
            window.scrollTo({ top: 0, behavior: "instant" });
            field.current?.focus();
          }} onClear=${() => {
            storeTurns([]);
            setTurns([]);
            field.current?.focus();
          }} />
        </main>
      </div>
      ${shown && html`<${Pane} turn=${turn} view=${view} opened=${shown} onClose=${close} />`}
    </div>
  </${Words.Provider}>`;
}

function Turn({ turn, view, words, colourful, setColourful, opened, onOpen, comparison, onCompare, onRetry, onEdit }) {
  const { report, phase } = turn;
  const silent = isSilent(report);
  const status = {
    searching: words.searching,
    reading: turn.thought ? words.thinking : words.reading(turn.passages.length),
    answering: words.answering,
    stopped: words.stopped,
    done: words.done,
    failed: "",
  }[phase];
  return html`<article class="turn" id="answer" tabindex="-1" aria-labelledby="asked">
    <div class="asked-head">
      <h2 id="asked" dir="auto">${turn.question}</h2>
      <button type="button" class="plain" onClick=${onEdit}>${words.edit}</button>
    </div>
    <${Spoken} turn=${turn} view=${view} status=${status} />
    ${phase !== "done" && status && html`<p class=${`status ${isRunning(turn) ? "running" : ""}`} aria-hidden="true">${status}</p>`}
    ${turn.thought &&
    html`<details class="thought"><summary>${words.thought}</summary><p dir="auto">${turn.thought}</p></details>`}
    ${silent &&
    html`<div class="silence">
      <h3>${words.silence}</h3>
      <p dir="auto">${view.text}</p>
      <p class="small">${turn.passages.length ? words.silenceNote : words.nothingFound}</p>
    </div>`}
    ${!silent && view.text && html`<${Answer} ...${{ turn, view, colourful, opened, onOpen }} />`}
    ${phase === "failed" && turn.error.status !== 401 && html`<${Failure} error=${turn.error} onRetry=${onRetry} />`}
    ${!silent && report?.finish_reason === "length" && html`<p class="small remark">${words.cutOff}</p>`}
    ${view.unsupported.length > 0 && html`<${Absent} view=${view} words=${words} />`}
    <${Conflicts} ...${{ turn, view, opened, onOpen }} />
    ${!silent && view.tokens.length > 0 && html`<${Bar} view=${view} isMoving=${isRunning(turn)} />`}
    ${report && html`<${Tools} ...${{ turn, view, words, colourful, setColourful, silent }} />`}
    ${turn.passages.length > 0 && (report || phase === "stopped") && html`<${Sources} ...${{ turn, view, opened, onOpen, silent }} />`}
    ${report && turn.passages.length > 0 && html`<${Compare} ...${{ turn, view, comparison, opened, onCompare, onOpen }} />`}
    ${report && html`<${Figures} ...${{ turn, report, words }} />`}
  </article>`;
}

function Absent({ view, words }) {
  const lines = new Map();
  for (const word of view.unsupported) {
    const said = absence(word, view, words);
    lines.set(said, [...(lines.get(said) || []), word.text]);
  }
  return html`<p class="small remark">
    ${[...lines].map(([said, texts]) => html`<span key=${said} class="line">${said}: <b dir="auto">${[...new Set(texts)].join(", ")}</b></span>`)}
  </p>`;
}

function Tools({ turn, view, words, colourful, setColourful, silent }) {
  const [copied, setCopied] = useState("");
  const timer = useRef();
  const put = async (text) => {
    const said = await copy(text).then(() => words.copied, () => words.copyFailed);
    setCopied(said);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setCopied(""), 2500);
  };
  const markdown = () =>
    markdownOf({ question: turn.question, text: view.text, citations: view.citations, passages: turn.passages }, words);
  return html`<div class="tools">
    <${Support} report=${turn.report} words=${words} silent=${silent} />
    <span class="space"></span>
    <span class="small" role="status">${copied}</span>
    ${!silent && view.tokens.length > 0 && html`<label class="check small"><input type="checkbox" checked=${colourful}
      onChange=${(event) => setColourful(event.currentTarget.checked)} /> ${words.colours}</label>`}
    <span class="buttons">
      <button type="button" class="plain" onClick=${() => put(markdown())}>${words.copyMarkdown}</button>
      <button type="button" class="plain" onClick=${() => put(linkOf(turn.question, turn.options))}>${words.copyLink}</button>
    </span>
  </div>`;
}

// `support` is the share of answerable questions with no more of it: only the lowest twentieth is as good as none.
const NONE = 0.05;
const WEAK = 0.25;

function Support({ report, words, silent }) {
  const { support, grounding } = report;
  if (support === null && grounding === null) return null;
  if (support === null) return html`<p class="small">${words.grounding(grounding.toFixed(1))}</p>`;
  const word = silent || support <= NONE ? "none" : support <= WEAK ? "weak" : "strong";
  return html`<p class="small" title=${words.supportNote(Math.round(support * 100))}>
    ${words.support}: <b class=${`support ${word}`}>${words.supportWords[word]}</b> (${support.toFixed(2)})
  </p>`;
}

function Figures({ turn, report, words }) {
  return html`<footer class="figures small">
    ${report.warnings.map((one, nth) => html`<p key=${nth} class="warning" role="note">${words.warning}: ${one}</p>`)}
    ${turn.query && turn.query !== turn.question && html`<p dir="auto">${words.searchedFor(turn.query)}</p>`}
    <p>${words.figures(report)}</p>
  </footer>`;
}

render(html`<${App} />`, document.getElementById("root"));
