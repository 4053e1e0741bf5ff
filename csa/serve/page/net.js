// The server: requests with the token, and streams that are taken up again where they broke off.

const API = "/api/v1";
const SILENT_MS = 40_000; // the server says something every 15 s
const FIRST_PAUSE_MS = 500, LONGEST_PAUSE_MS = 15_000;
let skewMs = 0; // how far this clock is behind the server's; an answer that was long on its way does not say

/** Return the server's time in milliseconds. */
export const now = () => Date.now() + skewMs;

// What is kept in the browser; a private window may refuse to keep anything, and a full one the next thing.
const unkept = new Map();

export const kept = {
  get(name) {
    try {
      return unkept.get(name) ?? localStorage.getItem(`csa:${name}`);
    } catch {
      return unkept.get(name) ?? null;
    }
  },
  set(name, value) {
    try {
      if (value) localStorage.setItem(`csa:${name}`, value);
      else localStorage.removeItem(`csa:${name}`);
      unkept.delete(name);
      return true;
    } catch {
      unkept.set(name, value);
      return false;
    }
  },
};

// What is typed: in this tab, where it outlives a reload, and for all tabs, where it outlives this one.
export const drafts = {
  get(name) {
    try {
      return sessionStorage.getItem(`csa:draft:${name}`) ?? kept.get(`draft:${name}`) ?? "";
    } catch {
      return kept.get(`draft:${name}`) ?? "";
    }
  },
  /** Returns whether it will outlive this tab. */
  set(name, text) {
    try {
      if (text) sessionStorage.setItem(`csa:draft:${name}`, text);
      else sessionStorage.removeItem(`csa:draft:${name}`);
    } catch {
      // kept below, or in memory
    }
    return kept.set(`draft:${name}`, text);
  },
  /** Forget a text that was sent; another one, of another tab, stays. */
  clear(name, text) {
    const other = kept.get(`draft:${name}`);
    this.set(name, "");
    if (other && other !== text) kept.set(`draft:${name}`, other);
  },
};

/** Take the token out of the address, where the history and screenshots would show it. */
export function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return;
  kept.set("token", found);
  history.replaceState(null, "", location.pathname);
}

/** What a request has failed with: the server's error object, or status 0 if it was not reached. */
export class Failure extends Error {
  constructor(status, error) {
    super(error?.message ?? "The server cannot be reached.");
    this.status = status;
    this.kind = error?.kind ?? "network";
    this.hint = error?.hint ?? (status ? null : "What you have typed is kept.");
  }

  get words() {
    return this.hint ? `${this.message} ${this.hint}` : this.message;
  }
}

let onDenied = () => {};
export const whenDenied = call => (onDenied = call);

/** Ask, and return the answer's object; throws Failure. */
export async function ask(method, path, body) {
  const headers = { Authorization: `Bearer ${kept.get("token") ?? ""}` };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await reach(API + path, { method, headers, body: body && JSON.stringify(body) });
  try {
    return await answer.json();
  } catch {
    throw new Failure(0);
  }
}

async function reach(url, options) {
  const begunAt = Date.now();
  let answer;
  try {
    answer = await fetch(url, { ...options, cache: "no-store", credentials: "omit" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(0);
  }
  const date = Date.parse(answer.headers.get("date"));
  if (date && Date.now() - begunAt < 1000 && Math.abs(date - Date.now() - skewMs) > 2000) skewMs = date - Date.now();
  if (answer.ok) return answer;
  if (answer.status === 401) onDenied();
  throw new Failure(answer.status, (await answer.json().catch(() => null))?.error ?? { message: answer.statusText });
}

/**
 * Follow a stream until `close`. `take(name, data)` gets each event, `tell(state)` "live", "waiting" or "gone".
 * It is taken up again after a pause, at once when the network or the tab comes back.
 */
export function follow(path, take, tell) {
  let last = null, isClosed = false, pauseMs = FIRST_PAUSE_MS, request = null, heardAt = Date.now(), wake = null;

  async function once() {
    request = new AbortController();
    heardAt = Date.now();
    const headers = { Authorization: `Bearer ${kept.get("token") ?? ""}`, Accept: "text/event-stream" };
    if (last !== null) headers["Last-Event-ID"] = last;
    const answer = await reach(API + path, { headers, signal: request.signal });
    tell("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done || isClosed) return;
      heardAt = Date.now();
      pauseMs = FIRST_PAUSE_MS;
      const from = Math.max(0, rest.length - 1);
      rest += value;
      if (rest.indexOf("\n\n", from) < 0) continue;
      const frames = rest.split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const event = read(frame);
        if (event.data) take(event.event, event.data);
        last = event.id ?? last;
      }
    }
  }

  async function run() {
    while (!isClosed) {
      try {
        await once();
      } catch (error) {
        if (isClosed) return;
        if (error.status === 401 || error.status === 404 || error.status === 403) return tell("gone");
      }
      if (isClosed) return;
      tell("waiting");
      await new Promise(resolve => {
        const timer = setTimeout(resolve, pauseMs * (0.75 + Math.random() / 2));
        wake = () => (clearTimeout(timer), resolve());
      });
      wake = null;
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }

  const again = () => {
    if (document.hidden) return;
    pauseMs = FIRST_PAUSE_MS;
    if (wake) wake();
    else if (Date.now() - heardAt > SILENT_MS / 2) request?.abort(); // asleep meanwhile
  };
  const lose = () => request?.abort();
  const watch = setInterval(() => Date.now() - heardAt > SILENT_MS && !wake && request?.abort(), 5000);
  addEventListener("online", again);
  addEventListener("offline", lose);
  addEventListener("pageshow", again);
  document.addEventListener("visibilitychange", again);
  run();
  return {
    close() {
      isClosed = true;
      clearInterval(watch);
      removeEventListener("online", again);
      removeEventListener("offline", lose);
      removeEventListener("pageshow", again);
      document.removeEventListener("visibilitychange", again);
      request?.abort();
      wake?.();
    },
  };
}

function read(frame) {
  const found = {};
  for (const line of frame.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) found[line.slice(0, at)] = line.slice(at + 2);
  }
  return found;
}

/** Say whether the server has another version of this page. */
export async function isOutdated() {
  try {
    const answer = await fetch("/", { method: "HEAD", cache: "no-store", credentials: "omit" });
    return answer.ok && answer.headers.get("etag") !== `"${document.body.dataset.place.split("/").pop()}"`;
  } catch {
    return false;
  }
}
