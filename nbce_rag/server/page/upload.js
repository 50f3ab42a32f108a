// Adding a file to an index, where the server lets this page do so.

import { html, useRef, useState } from "./vendor/preact-htm.js";
import { postFile } from "./api.js";
import { Failure } from "./failure.js";
import { plainError } from "./turns.js";
import { useWords } from "./words.js";

export function Upload({ index, onDone }) {
  const words = useWords();
  const [state, setState] = useState(null); // {name, error, isDone}
  const field = useRef();
  const send = async () => {
    const [file] = field.current.files;
    if (!file) return;
    setState({ name: file.name });
    try {
      await postFile("v1/files", file, { index, purpose: "assistants" });
      setState({ name: file.name, isDone: true });
      onDone();
    } catch (error) {
      setState({ name: file.name, error: plainError(error) });
    }
    field.current.value = "";
  };
  return html`<div class="upload">
    <label class="quiet-button">${words.upload}<input class="sr" type="file" ref=${field} onChange=${send} /></label>
    <span class="small" role="status">
      ${state && !state.error && (state.isDone ? words.uploaded(state.name) : words.uploading(state.name))}
    </span>
    ${state?.error && html`<${Failure} error=${state.error} />`}
  </div>`;
}
