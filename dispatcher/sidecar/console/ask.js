// Asks the sidecar. The token stays in this tab (sessionStorage) and goes out as a bearer token, never in an address.

const KEY = "dispatcher-token";
const PATIENCE_MS = 8000;
let token = sessionStorage.getItem(KEY);

/** An answer that is no success. `status` 0: none came. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function keep(value) {
  token = value;
  sessionStorage.setItem(KEY, value);
}

export function forget() {
  token = null;
  sessionStorage.removeItem(KEY);
}

export function hasToken() {
  return token !== null;
}

/** GET, or POST when there is a body (null: an empty one). Returns the JSON, or its text if `raw`; throws Refused. */
export async function ask(path, { body, patience = PATIENCE_MS, raw = false } = {}) {
  const headers = { Accept: "application/json" };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const options = { headers, signal: AbortSignal.timeout(patience), cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    options.method = "POST";
    if (body !== null) {
      headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? "no answer in time" : "no connection");
  }
  const text = await answer.text().catch(() => "");
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    // A proxy's page, not ours.
  }
  if (answer.ok && found !== null) return raw ? text : found;
  throw new Refused(answer.status || 502, found?.error ?? `HTTP ${answer.status}`);
}
