/** What the server offers, one function each. */

// this page's turn among others; randomUUID is there only for pages of this machine and of HTTPS
const CLIENT = crypto.getRandomValues(new Uint32Array(4)).join("-");
const ENDED = new Set(["done", "failed", "cancelled"]);

/** What went wrong, in one line for a person. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const models = () => call("/api/models");
export const tune = (id) => call(`/api/tunes/${encodeURIComponent(id)}`);
export const differences = (a, b) =>
  call(`/api/tunes/${encodeURIComponent(a)}/differences/${encodeURIComponent(b)}`);
export const shelf = () => call("/api/shelf");
export const keep = (id) => call(`/api/shelf/${encodeURIComponent(id)}`, { method: "PUT" });
export const drop = (id) => call(`/api/shelf/${encodeURIComponent(id)}`, { method: "DELETE" });
export const training = () => call("/api/training");
export const trainingTune = (run) => call(`/api/training/${encodeURIComponent(run)}/tune`);

/** Fetch a tune's file: its content, and the name that the server gives it. */
export async function file(id, suffix) {
  const response = await answered(`/api/tunes/${encodeURIComponent(id)}/file/${suffix}`, {});
  const named = /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "");
  return { content: await response.blob(), name: named?.[1] ?? `tune.${suffix}` };
}

/**
 * Ask for a tune and wait until it is there.
 *
 * @param {Record<string, any>} asked the body of the job
 * @param {AbortSignal} signal cancels the job
 * @param {(state: any) => void} onState told of each state that it goes through
 * @returns {Promise<any>} the tune
 */
export async function written(asked, signal, onState) {
  const { id } = await call("/api/jobs", { method: "POST", body: JSON.stringify(asked) });
  const state = await followed(id, signal, onState);
  if (state.state === "failed") throw new Refused(state.error || "the tune could not be written");
  if (state.state === "cancelled") throw new Refused("cancelled");
  return tune(state.tune);
}

/** Follow a job to its end. */
function followed(id, signal, onState) {
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  return new Promise((resolve, reject) => {
    const events = new EventSource(`${path}/events`);
    const end = (settle, value) => {
      events.close();
      signal.removeEventListener("abort", cancel);
      settle(value);
    };
    const cancel = () => {
      call(path, { method: "DELETE" }).catch(() => {}); // it is gone either way
      end(reject, new Refused("cancelled"));
    };
    const take = (state) => (ENDED.has(state.state) ? end(resolve, state) : onState(state));
    events.onmessage = (event) => take(JSON.parse(event.data));
    events.onerror = () => {
      events.close(); // it would ask again for ever; the job itself says how it ended
      call(path).then((state) => (ENDED.has(state.state) ? take(state) : lost(end, reject)),
        (fault) => end(reject, fault));
    };
    if (signal.aborted) cancel();
    else signal.addEventListener("abort", cancel);
  });
}

function lost(end, reject) {
  end(reject, new Refused("the playground stopped answering; try again"));
}

async function call(path, options = {}) {
  const response = await answered(path, options);
  return response.status === 204 ? null : response.json();
}

async function answered(path, options) {
  const headers = { "X-Client": CLIENT, ...(options.body ? { "Content-Type": "application/json" } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused("the playground does not answer: is musicgen serve still running?");
  }
  if (!response.ok) throw new Refused(await reason(response), response.status);
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error || response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}
