// The server, as this page talks to it. The key lives as long as the tab does.

const KEY = "nbce-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What the server refused: its status, message and code, and after how many seconds to try again. */
export class ServerError extends Error {
  constructor(status, message, { code = "", retryAfter = null, requestId = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter, requestId });
  }
}

export const getJson = async (path, signal) => (await request("GET", path, { signal })).json();
export const postJson = async (path, body, signal) => (await request("POST", path, { body, signal })).json();
export const deleteJson = async (path) => (await request("DELETE", path, {})).json();

/** Sends a file; `fields` are further fields of the form. */
export async function postFile(path, file, fields, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file, file.name);
  return (await request("POST", path, { form, signal })).json();
}

/** Events of a stream: {event, data} each, data as JSON. */
export async function* events(path, body, signal) {
  const answer = await request("POST", path, { body, signal, accept: "text/event-stream" });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += value || "";
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = done ? "" : blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
    if (done) return;
  }
}

function parsed(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null; // comments keep a line open
}

async function request(method, path, { body, form, signal, accept = "application/json" }) {
  const headers = { accept };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: form || (body && JSON.stringify(body)), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "", { code: "unreachable" });
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error || {};
  } catch {
    // Not the server's own: a proxy's page, say. The status has to do.
  }
  const seconds = Number(answer.headers.get("retry-after"));
  return new ServerError(answer.status, error.message || answer.statusText, {
    code: error.code || "",
    retryAfter: seconds > 0 ? seconds : null,
    requestId: answer.headers.get("x-request-id") || "",
  });
}
