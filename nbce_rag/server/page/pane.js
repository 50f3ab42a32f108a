// A passage in its source: what stands around it, the cited words marked, and the page of a PDF.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { getJson } from "./api.js";
import { nameOf, pageOf } from "./markdown.js";
import { unitsOf } from "./offsets.js";
import { joined } from "./sources.js";
import { plainError } from "./turns.js";
import { useWords } from "./words.js";

const WEB = /^(?:https?:\/\/|source\/)/; // nothing else becomes a link

export function Pane({ turn, view, opened, onClose }) {
  const words = useWords();
  const head = useRef();
  const body = useRef();
  const passage = turn.passages[opened.place];
  const index = encodeURIComponent(passage.index || turn.options.index);
  const path = `v1/indexes/${index}/passages/${encodeURIComponent(passage.id)}`;
  const pages = `v1/indexes/${index}/pages/${encodeURIComponent(passage.id)}`;
  const [stored, setStored] = useState(null); // the passage as the index has it, or {error}
  const chosen = supportOf(view, opened);
  useEffect(() => {
    const control = new AbortController();
    setStored(null);
    getJson(path, control.signal).then(setStored, (error) => control.signal.aborted || setStored({ error: plainError(error) }));
    return () => control.abort();
  }, [path]);
  useEffect(() => head.current.focus({ preventScroll: true }), [opened]);
  useEffect(() => {
    // Behind everything that is set up by now, so that a page above it does not push it away again.
    const target = body.current.querySelector("mark.chosen") || body.current.querySelector(".passage");
    target?.scrollIntoView({ block: "center", behavior: "instant" });
  }, [stored, opened]);
  const page = pageOf(passage);
  const isPlaced = Number.isInteger(passage.start) && Number.isInteger(passage.end);
  const span = isPlaced ? words.characters(passage.start, passage.end) : "";
  const facts = [page === null ? span : words.page(page), passage.title ? passage.source : ""];
  const quotes = view.citations.flatMap((one) => one.supports.filter((s) => s.place === opened.place && s.verbatim));
  return html`<aside id="pane" class=${`pane c${view.colours.get(opened.place)}`} aria-label=${words.pane}>
    <header>
      <div class="pane-head">
        <p class="small">${words.pane} ${view.cited.has(opened.place) ? view.numbers.get(opened.place) : ""}</p>
        <h2 ref=${head} tabindex="-1"><bdi>${nameOf(passage)}</bdi></h2>
        <p class="small facts">${facts.filter(Boolean).join(" · ")}</p>
      </div>
      <button type="button" class="plain close" onClick=${onClose} aria-label=${words.close}>✕</button>
    </header>
    <div class="pane-body" ref=${body} tabindex="0" role="group" aria-label=${nameOf(passage)}>
      ${!stored && html`<p class="small">${words.loading}</p>`}
      ${stored?.kind === "pdf" && html`<${Pages} path=${pages} name=${nameOf(passage)} chosen=${chosen} quotes=${quotes} />`}
      <${Text} passage=${passage} stored=${stored} quotes=${quotes} chosen=${chosen} />
      ${!quotes.length && view.cited.has(opened.place) && html`<p class="small remark">${words.passageOnly}</p>`}
      ${WEB.test(stored?.url || "") &&
      html`<p><a href=${stored.url} target="_blank" rel="noopener noreferrer">${words.wholeSource}<span aria-hidden="true"> ↗</span></a></p>`}
    </div>
  </aside>`;
}

/** What the citation that was clicked says of the passage. */
function supportOf(view, { citation, place }) {
  return view.citations[citation]?.supports.find((one) => one.place === place && one.verbatim) || null;
}

function Text({ passage, stored, quotes, chosen }) {
  const unit = unitsOf(passage.text);
  const spans = joined(quotes.map((one) => [unit(one.quoteStart), unit(one.quoteEnd)]));
  const main = chosen && [unit(chosen.quoteStart), unit(chosen.quoteEnd)];
  const cuts = [...new Set([0, passage.text.length, ...spans.flat(), ...(main || [])])].sort((a, b) => a - b);
  const within = (span, at) => span && span[0] <= at && at < span[1];
  const pieces = cuts.slice(1).map((end, nth) => {
    const text = passage.text.slice(cuts[nth], end);
    if (within(main, cuts[nth])) return html`<mark class="chosen">${text}</mark>`;
    return spans.some((span) => within(span, cuts[nth])) ? html`<mark>${text}</mark>` : text;
  });
  // What the index has by now may be another text: then nothing around it is shown as if it belonged there.
  const isSame = stored && stored.text === passage.text;
  return html`<div class="around" dir="auto">
    ${isSame && stored.before && html`<span class="dim">${stored.before}</span>`}<span class="passage">${pieces}</span
    >${isSame && stored.after && html`<span class="dim">${stored.after}</span>`}
  </div>`;
}

/** Pages of a PDF as the server draws them, with boxes over the passage and over the cited words. */
function Pages({ path, name, chosen, quotes }) {
  const words = useWords();
  const [drawn, setDrawn] = useState(null);
  const box = useRef();
  const spans = (chosen ? [chosen] : quotes).filter((one) => one.sourceStart !== null && one.sourceStart !== undefined);
  const query = spans.map((one) => `span=${one.sourceStart}-${one.sourceEnd}`).join("&");
  useEffect(() => {
    const control = new AbortController();
    setDrawn(null);
    getJson(`${path}?${query}`, control.signal).then(setDrawn, () => control.signal.aborted || setDrawn({ pages: [] }));
    return () => control.abort();
  }, [path, query]);
  useEffect(() => {
    if (!drawn?.pages.length) return;
    (box.current.querySelector(".box.chosen") || box.current).scrollIntoView({ block: "center", behavior: "instant" });
  }, [drawn]);
  if (!drawn) return html`<p class="small" role="status">${words.drawing}</p>`;
  if (!drawn.pages.length)
    return html`<p class="small remark">${drawn.is_current === false ? words.changed : words.noPages}</p>`;
  return html`<div class="pages" ref=${box}>
    ${drawn.pages.map(
      (page) => html`<figure key=${page.number} class="page" style=${{ aspectRatio: `${page.width} / ${page.height}` }}>
        <img
          src=${page.url}
          width=${page.width}
          height=${page.height}
          alt=${page.marks.length ? words.pageImage(page.number, name) : words.pageImagePlain(page.number, name)}
        />
        ${page.boxes.map((one, nth) => html`<span key=${`b${nth}`} class="box" style=${placed(one)}></span>`)}
        ${page.marks.map((one, nth) => html`<span key=${`m${nth}`} class="box chosen" style=${placed(one)}></span>`)}
      </figure>`,
    )}
  </div>`;
}

/** A box [left, top, width, height] in shares of the page. */
function placed([left, top, width, height]) {
  const percent = (share) => `${(share * 100).toFixed(3)}%`;
  return { left: percent(left), top: percent(top), width: percent(width), height: percent(height) };
}
