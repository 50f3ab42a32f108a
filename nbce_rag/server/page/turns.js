// A question and what became of it, from the stream's first event to the report.

import { ServerError, events } from "./api.js";
import { citationOf, coloursOf, numbersOf, sharesOf } from "./evidence.js";
import { whereOf } from "./links.js";
import { inUnits } from "./offsets.js";

const HISTORY = "nbce-history";
const MOST_KEPT = 20;

/** A question that is about to be asked. `phase`: searching, reading, answering, done, stopped, failed. */
export function newTurn(question, options) {
  return {
    id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`,
    question,
    options,
    phase: "searching",
    query: "",
    passages: [],
    text: "",
    thought: "",
    tokens: [],
    citations: [],
    unsupported: [],
    report: null,
    error: null,
  };
}

export const isRunning = (turn) => ["searching", "reading", "answering"].includes(turn?.phase);

/** What /v1/ask and /v1/compare are sent. */
export function bodyOf({ question, options }) {
  const body = { question, index: options.index, k: options.k };
  const where = whereOf(options.filters);
  if (where) body.where = where;
  if (options.look) body.look = true;
  body.options = {};
  if (options.rule) body.options.fusion = options.rule;
  if (!options.conflicts) body.options.conflicts = false;
  return body;
}

/** Asks; `update` gets the turn whenever it has changed. It ends with an answer, an error or a stop. */
export async function ask(turn, update, signal) {
  const change = (changes) => update((turn = { ...turn, ...changes }));
  try {
    for await (const { event, data } of events("v1/ask", { ...bodyOf(turn), stream: true }, signal)) {
      if (event === "retrieved") change({ phase: "reading", query: data.query || "", passages: data.passages });
      else if (event === "piece") change(grown(turn, data));
      else if (event === "error") throw new ServerError(0, data.error.message, { code: "broken" });
      else if (event === "answer") change({ phase: "done", report: data, passages: passagesOf(data) });
    }
    if (turn.phase !== "done") throw new ServerError(0, "", { code: "broken" });
  } catch (error) {
    if (signal.aborted) change({ phase: "stopped" });
    else change({ phase: "failed", error: plainError(error) });
  }
}

/** The passages of a report, each with the index in which it was found. */
function passagesOf(report) {
  const homes = report.passages || [];
  return report.contexts.map((context, place) => ({ ...context, index: homes[place]?.index }));
}

function grown(turn, piece) {
  return {
    phase: piece.text || turn.text ? "answering" : turn.phase,
    text: turn.text + (piece.text || ""),
    thought: turn.thought + (piece.thought || ""),
    tokens: piece.tokens?.length ? [...turn.tokens, ...piece.tokens.map(lean)] : turn.tokens,
    citations: piece.citations?.length ? [...turn.citations, ...piece.citations] : turn.citations,
    unsupported: piece.unsupported?.length ? [...turn.unsupported, ...piece.unsupported] : turn.unsupported,
  };
}

const lean = ({ start, end, weights }) => ({ start, end, weights: weights.map((w) => Math.round(w * 1e4) / 1e4) });

export function plainError(error) {
  if (!(error instanceof ServerError)) console.warn(error);
  const { status = 0, message, code = "other", retryAfter = null, requestId = "" } = error;
  return { status, message, code, retryAfter, requestId };
}

/** What is shown of a turn: text, spans in UTF-16 units, and for each passage its number, colour and share. */
export function viewOf(turn) {
  const { report } = turn;
  const text = report ? report.answer : turn.text;
  // An abstention that came after words were sent replaces them, and their evidence with them.
  const holds = !report || text.startsWith(turn.text) || turn.text.startsWith(text);
  const tokens = holds ? inUnits(text, turn.tokens) : [];
  const citations = inUnits(text, (report ? report.citations : turn.citations).map(citationOf));
  const unsupported = inUnits(text, report ? report.unsupported : turn.unsupported);
  const count = turn.passages.length;
  const numbers = numbersOf(citations);
  for (let place = 0; place < count; place += 1) if (!numbers.has(place)) numbers.set(place, numbers.size + 1);
  const cited = new Set(citations.flatMap((one) => one.supports.map((support) => support.place)));
  const shares = report ? report.contexts.map((one) => one.weight || 0) : sharesOf(tokens, count, true);
  const colours = coloursOf(tokens, citations, count);
  return { text, tokens, citations, unsupported, numbers, cited, shares, colours };
}

/** Whether the engine said that no passage answers. */
export const isSilent = (report) => report?.finish_reason === "no_evidence";

export function storedTurns() {
  try {
    return JSON.parse(sessionStorage.getItem(HISTORY) || "[]");
  } catch {
    return [];
  }
}

/** Keeps turns for this tab, the newest first; of too many the oldest are forgotten. */
export function storeTurns(turns) {
  for (let most = Math.min(turns.length, MOST_KEPT); most >= 0; most -= 1) {
    try {
      sessionStorage.setItem(HISTORY, JSON.stringify(turns.slice(0, most)));
      return;
    } catch {
      // Too large for the browser: fewer of them.
    }
  }
}
