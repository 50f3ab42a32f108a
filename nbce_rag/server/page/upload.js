// Adding a file to an index, where the server lets this page do so.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { deleteJson, getJson, postFile } from "./api.js";
import { Failure } from "./failure.js";
import { plainError } from "./turns.js";
import { useWords } from "./words.js";

const BETWEEN = 700; // ms between two questions after how far it is

export function Upload({ index, onDone }) {
  const words = useWords();
  const [state, setState] = useState(null); // {name, status, passages, total, message, error, path}
  const field = useRef();
  const control = useRef(new AbortController());
  useEffect(() => () => control.current.abort(), []);
  const send = async () => {
    const [file] = field.current.files;
    if (!file) return;
    const { signal } = control.current;
    const name = file.name;
    setState({ name, status: "in_progress" });
    try {
      const { id } = await postFile("v1/files", file, { index, purpose: "assistants" }, signal);
      const path = `v1/vector_stores/${encodeURIComponent(index)}/files/${encodeURIComponent(id)}`;
      for (;;) {
        const job = await getJson(path, signal);
        setState({ name, path, status: job.status, ...job.nbce, message: job.last_error?.message });
        if (job.status !== "in_progress") break;
        await new Promise((resolve) => setTimeout(resolve, BETWEEN));
      }
      onDone();
    } catch (error) {
      if (!signal.aborted) setState({ name, error: plainError(error) });
    }
    if (field.current) field.current.value = "";
  };
  const isRunning = state?.status === "in_progress";
  return html`<div class="upload">
    <label class=${`quiet-button ${isRunning ? "off" : ""}`}
      >${words.upload}<input class="sr" type="file" ref=${field} onChange=${send} disabled=${isRunning} /></label
    >
    <span class="small" role="status">${state?.status && words.uploads[state.status](state)}</span>
    ${isRunning &&
    state.path &&
    html`<button type="button" class="plain" onClick=${() => deleteJson(state.path).catch(() => {})}>${words.cancel}</button>`}
    ${state?.error && html`<${Failure} error=${state.error} />`}
  </div>`;
}
