/** The server's HTTP API, one function per request. */

// Identifies this page in the server's fair queue. crypto.randomUUID would need HTTPS or localhost.
const CLIENT = crypto.getRandomValues(new Uint32Array(4)).join("-");
const FINAL_STATES = new Set(["done", "failed", "cancelled"]);

/** A request that failed; the message is one line for the user. */
class ApiError extends Error {
  /** @param {string} message @param {number} status the HTTP status; 0: none */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const fetchModels = () => call("/api/models");
export const fetchTune = (id) => call(`/api/tunes/${encodeURIComponent(id)}`);
export const fetchDifferences = (idA, idB) =>
  call(`/api/tunes/${encodeURIComponent(idA)}/differences/${encodeURIComponent(idB)}`);
export const fetchSurprise = (id) => call(`/api/tunes/${encodeURIComponent(id)}/surprise`);
/** List the parts of a file: its name, and its bytes as base64. */
export const fetchParts = (file) => call("/api/parts", { method: "POST", body: JSON.stringify(file) });
export const fetchSavedTunes = () => call("/api/shelf");
export const saveTune = (id) => call(`/api/shelf/${encodeURIComponent(id)}`, { method: "PUT" });
export const deleteTune = (id) => call(`/api/shelf/${encodeURIComponent(id)}`, { method: "DELETE" });
export const fetchTrainingRuns = () => call("/api/training");
export const fetchTrainingTune = (run) => call(`/api/training/${encodeURIComponent(run)}/tune`);

/** Fetch a tune as a file: its content, and the file name that the server gives it. */
export async function fetchFile(id, suffix) {
  const response = await send(`/api/tunes/${encodeURIComponent(id)}/file/${suffix}`);
  const match = /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "");
  return { content: await response.blob(), name: match?.[1] ?? `tune.${suffix}` };
}

/**
 * Generate a tune and wait for it.
 *
 * @param {Record<string, any>} request the body of the job
 * @param {AbortSignal} signal cancels the job
 * @param {(state: any) => void} onState receives each state of the job before the final one
 * @returns {Promise<any>} the tune
 */
export async function generateTune(request, signal, onState) {
  const { id } = await call("/api/jobs", { method: "POST", body: JSON.stringify(request) });
  const state = await watchJob(id, signal, onState);
  if (state.state === "failed") throw new ApiError(state.error || "the tune could not be generated");
  if (state.state === "cancelled") throw new ApiError("cancelled");
  return fetchTune(state.tune);
}

/** Wait for the final state of a job. */
function watchJob(id, signal, onState) {
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  return new Promise((resolve, reject) => {
    const events = new EventSource(`${path}/events`);
    const finish = (settle, value) => {
      events.close();
      signal.removeEventListener("abort", cancel);
      settle(value);
    };
    const cancel = () => {
      call(path, { method: "DELETE" }).catch(() => {}); // the result is dropped either way
      finish(reject, new ApiError("cancelled"));
    };
    const receive = (state) => (FINAL_STATES.has(state.state) ? finish(resolve, state) : onState(state));
    const receiveLast = (state) => {
      if (FINAL_STATES.has(state.state)) receive(state);
      else finish(reject, new ApiError("the connection to the server was lost; try again"));
    };
    events.onmessage = (event) => receive(JSON.parse(event.data));
    events.onerror = () => {
      events.close(); // else it reconnects forever; the job itself tells how it ended
      call(path).then(receiveLast, (error) => finish(reject, error));
    };
    if (signal.aborted) cancel();
    else signal.addEventListener("abort", cancel);
  });
}

async function call(path, options = {}) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

async function send(path, options = {}) {
  const headers = { "X-Client": CLIENT, ...(options.body ? { "Content-Type": "application/json" } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ApiError("the server does not respond: is musicgen serve still running?");
  }
  if (!response.ok) throw new ApiError(await readError(response), response.status);
  return response;
}

async function readError(response) {
  try {
    return (await response.json()).error || response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}
