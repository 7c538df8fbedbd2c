// The service, as the page sees it.  The key is a variable: it ends with the page.

let key = null;

/** The service wants a key, or does not know the one it got. */
export class KeyWanted extends Error {
  constructor(refused) {
    super(refused ? "The service does not know this API key." : "This service wants an API key.");
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

export function useKey(text) {
  key = text;
}

/** The answer's JSON; an Error that says what the service says when it refuses. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401) throw new KeyWanted(body.code === "key_unknown");
  const wait = response.headers.get("Retry-After");
  const later = response.status === 429 && wait ? ` Try again in ${wait} s.` : "";
  const detail = body.detail ?? `The service answers with status ${response.status}.`;
  throw new Error(sentence(detail) + later);
}

const histograms = new Map();

/** Calibration histograms by detector of one version of a model; none where they cannot be had. */
export async function calibrationOf(name, version) {
  const path = `models/${encodeURIComponent(name)}/calibration?version=${encodeURIComponent(version)}`;
  if (!histograms.has(path)) {
    const asked = ask(path).then((answer) => answer.detectors);
    histograms.set(path, asked);
    asked.catch(() => histograms.delete(path));
  }
  return histograms.get(path).catch(() => ({}));
}
