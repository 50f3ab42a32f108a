// An answer as Markdown: numbers in the text, and the sources below with what they say word for word.

import { citationMarks } from "./marks.js";
import { numbersOf } from "./evidence.js";

/** The name of a passage in one line: its title, source, beginning or id. */
export function nameOf(passage) {
  const bare = (text) => (text || "").replace(/\s+/g, " ").trim();
  const text = bare(passage.text);
  return bare(passage.title) || fileOf(passage.source) || (text.length > 60 ? `${text.slice(0, 60)}…` : text) || passage.id;
}

/** The last part of a source that is a path; a source that is none as it is. */
export function fileOf(source) {
  const bare = (source || "").replace(/\s+/g, " ").trim();
  return /^https?:/.test(bare) ? bare : bare.split(/[\\/]/).filter(Boolean).at(-1) || bare;
}

export function pageOf(passage) {
  const page = passage.metadata?.page_label ?? passage.metadata?.page;
  return ["string", "number"].includes(typeof page) && page !== "" ? page : null;
}

/** `answer`: {text, citations} in UTF-16 units; `words.page(n)` and `words.sources` are in the page's language. */
export function markdownOf({ question, text, citations, passages }, words) {
  const numbers = numbersOf(citations);
  let body = "";
  let at = 0;
  for (const mark of citationMarks(text, citations)) {
    const named = mark.places.map((place) => `[${numbers.get(place)}]`).join("");
    body += `${text.slice(at, mark.at)}${mark.ownLine ? "\n" : ""}${named}`;
    at = mark.at;
  }
  body += text.slice(at);
  const sources = [...numbers].map(([place, number]) => {
    const passage = passages[place];
    const page = pageOf(passage);
    const facts = [nameOf(passage), page === null ? "" : words.page(page), passage.title ? passage.source || "" : ""];
    const quotes = citations.flatMap((one) => one.supports.filter((s) => s.place === place && s.verbatim).map(() => one.text));
    const quoted = [...new Set(quotes)].map((quote) => `\n   > ${quote.replace(/\s+/g, " ")}`).join("");
    return `${number}. ${facts.filter(Boolean).map(escaped).join(", ")}${quoted}`;
  });
  const head = `**${escaped(question.replace(/\s+/g, " "))}**\n\n${body.trim()}\n`;
  return sources.length ? `${head}\n${words.sources}:\n\n${sources.join("\n")}\n` : head;
}

function escaped(text) {
  return text.replace(/[\\`*_[\]<>]/g, "\\$&");
}

/** Copies a text; where the page was not loaded over a safe line, by way of a field. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "sr";
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error("copy");
}
