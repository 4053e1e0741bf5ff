// The conversation at the right: the newest page of it, older ones as they are scrolled to, and what comes.
import { composer } from "./composer.js";
import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { message, subAgent } from "./message.js";
import { ask, follow } from "./net.js";
import { act, changed, childrenOf, mayAct, placeOf, rowOf, say, state, toast } from "./state.js";
import { inWords, look, madeAt, nameOf, plural, shorten, silence, spent, statusOf } from "./words.js";

const REFRESH_MS = 150;
const NEAR = 60, EARLY = 800; // pixels from the end, and from the beginning
const MOST_MESSAGES = 600, KEPT = 300; // that stay while there are new ones

export const talk = fresh(null);
let stream = null, timer = null, isAsking = false, isStale = false, versions = 0, scroller = null;

function fresh(id) {
  return {
    id, card: null, messages: [], older: null, isLoaded: false, isLoadingOlder: false, problem: null, isGone: false, refused: null, unsent: null, busyRow: null,
    whole: new Map(), isAtEnd: true, isNew: false, fromEnd: null, link: "waiting",
  };
}

/** Show the session with that id, a prefix of it, or a name. */
export async function openTalk(id) {
  closeTalk();
  Object.assign(talk, fresh(id));
  changed();
  if (id === null) return;
  try {
    const card = rowOf(id) ?? ask("GET", `/sessions/${enc(id)}`); // which takes longer, as it sums up the whole session
    const [found, page] = await Promise.all([card, ask("GET", `/sessions/${enc(id)}/conversation`)]);
    if (talk.id !== id) return;
    talk.card = found;
    talk.id = found.session_id;
    talk.isGone = found.phase === "retired";
    if (id !== talk.id) {
      history.replaceState(null, "", `#/s/${talk.id}`);
      state.route.id = talk.id;
    }
    take(page);
    talk.isLoaded = true;
    const after = talk.messages.at(-1)?.seq ?? -1;
    stream = follow(`/sessions/${enc(talk.id)}/events?after=${after}`, refreshSoon, whenLinked);
  } catch (error) {
    if (talk.id !== id) return;
    talk.problem = error;
    if (isPassing(error)) timer = setTimeout(() => talk.id === id && openTalk(id), 3000);
  }
  changed();
}

const isPassing = ({ status }) => status === 0 || status === 429 || status >= 500;

function whenLinked(link) {
  talk.link = link;
  if (link === "gone") refreshSoon(); // which says why
  changed();
}

export function closeTalk() {
  stream?.close();
  stream = null;
  clearTimeout(timer);
  timer = null;
}

const enc = encodeURIComponent;

function take(page) {
  const known = new Map(talk.messages.map(item => [item.seq, item]));
  talk.messages = page.messages.map(item => keep(known.get(item.seq), item));
  talk.older = page.older;
}

/** Keep a message that has not changed, so that it is not drawn again. */
function keep(before, item) {
  if (before && JSON.stringify({ ...item, version: before.version }) === JSON.stringify(before)) return before;
  if (before) talk.whole.delete(item.seq);
  return Object.assign(item, { version: ++versions });
}

export function refreshSoon() {
  if (isAsking) isStale = true;
  else timer ??= setTimeout(refresh, REFRESH_MS);
}

/** Return the number of the first message that may have changed. */
function unsettled() {
  const last = talk.messages.at(-1);
  const open = talk.messages.find(item => item.turn === last.turn &&
    (item.ask?.status === "pending" || item.calls.some(call => call.status === "in_progress" || call.status === "pending")));
  return open && !talk.messages.some(item => item.end && item.seq > open.seq) ? open.seq : last.seq;
}

/** Read what is new; returns true when that was done. */
export async function refresh() {
  timer = null;
  const { id } = talk;
  isAsking = true;
  isStale = false;
  try {
    const since = talk.messages.length ? unsettled() : null;
    const page = await ask("GET", `/sessions/${enc(id)}/conversation${since === null ? "" : `?since=${since}`}`);
    if (talk.id !== id) return false;
    if (since === null || page.older !== null) take(since === null ? page : await ask("GET", `/sessions/${enc(id)}/conversation`));
    else {
      const known = new Map(talk.messages.map(item => [item.seq, item]));
      talk.messages = [
        ...talk.messages.filter(item => item.seq < since),
        ...page.messages.map(item => keep(known.get(item.seq), item)),
      ];
      if (talk.isAtEnd) forgetOld();
      else talk.isNew = true;
    }
    changed();
    return true;
  } catch (error) {
    if (talk.id !== id) return false;
    if (error.status === 404) talk.isGone = true;
    else if (error.status === 403) talk.refused = error.message;
    else isStale = true;
    changed();
    return false;
  } finally {
    isAsking = false;
    if (isStale && talk.id !== null) timer ??= setTimeout(refresh, talk.id === id ? 10 * REFRESH_MS : REFRESH_MS);
  }
}

/** Let go of what is far above, which can be loaded again: a conversation may go on for hours. */
function forgetOld() {
  if (talk.messages.length <= MOST_MESSAGES) return;
  const gone = talk.messages.splice(0, talk.messages.length - KEPT);
  for (const item of gone) talk.whole.delete(item.seq);
  talk.older = talk.messages[0].seq;
}

async function loadOlder() {
  if (talk.older === null || talk.isLoadingOlder) return;
  const { id } = talk;
  talk.isLoadingOlder = true;
  changed();
  const page = await act("GET", `/sessions/${enc(id)}/conversation?before=${talk.older}`);
  if (talk.id !== id) return;
  talk.isLoadingOlder = false;
  if (page) {
    talk.messages = [...page.messages.map(item => keep(undefined, item)), ...talk.messages];
    talk.older = page.older;
    talk.fromEnd = scroller.scrollHeight - scroller.scrollTop;
  }
  changed();
}

/** Return the last turn that is shown: who sends a prompt has read so far. */
export const lastTurn = () => talk.messages.reduce((last, item) => Math.max(last, item.turn), 0);

const ACTS = {
  shorten: words => shorten(words, current()?.project),
  async whole(seq) {
    const { id } = talk;
    const page = await act("GET", `/sessions/${enc(id)}/conversation?whole=${seq}`);
    if (page?.messages.length && talk.id === id) talk.whole.set(seq, page.messages[0]);
    changed();
  },
  async answer(name, allow) {
    if (await act("POST", `/sessions/${enc(talk.id)}/answer`, { ask: name, allow })) say(allow ? "Allowed." : "Denied.");
    refreshSoon();
  },
};

export async function stop() {
  const found = await act("POST", `/sessions/${enc(talk.id)}/cancel`, {});
  if (found) say("Stopped.");
}

export async function remove(isForced) {
  const { id } = talk, name = title(), isFar = Boolean(current()?.mirror);
  const done = await act("DELETE", `/sessions/${enc(id)}${isForced ? "?force=true" : ""}`);
  if (!done) return;
  toast(`Deleted ${name}.`, isFar ? {} : { action: { words: "Undo", run: () => restore(id, name) } });
  if (talk.id === id) location.hash = "#/";
}

export async function restore(id, name) {
  if (!(await act("POST", `/sessions/${enc(id)}/restore`))) return;
  toast(`Restored ${name}.`);
  if (state.route.id === id) openTalk(id);
  else location.hash = `#/s/${id}`;
}

/** The session's row, or its card until there is one. */
export const current = () => rowOf(talk.id) ?? talk.card;
export const title = () => (current() ? nameOf(current()) : talk.id ?? "");

/** Draw the conversation. */
export function talkView() {
  const row = current();
  if (!row) return h("main", { class: "talk", id: "main", tabindex: "-1" }, head(null), h("div", { class: "scroll" }, waiting()));
  return h("main", { class: "talk", id: "main", tabindex: "-1", key: talk.id },
    head(row),
    notice(),
    h("div", { key: "scroll", class: "scroll", tabindex: "0", role: "region", "aria-label": "Messages", made: whenMade, onscroll: whenScrolled },
      h("div", { class: "column" },
        talk.older !== null && h("button", { class: "more", onclick: loadOlder, disabled: talk.isLoadingOlder }, talk.isLoadingOlder ? "Loading …" : "Older messages"),
        talk.isLoaded ? h("ol", { class: "messages" }, items(row)) : waiting(),
        talk.isLoaded && live(row))),
    talk.isNew && !talk.isAtEnd && h("button", { class: "newest", onclick: () => ((talk.isAtEnd = true), (talk.isNew = false), changed()) }, "New messages ↓"),
    talk.isLoaded && !talk.isGone && !talk.refused && composer(row));
}

function head(row) {
  const isBusy = row?.status === "running" || row?.status === "away"; // its host knows
  return h("header", { class: "bar" },
    h("a", { class: "button quiet back", href: "#/", "aria-label": "All sessions" }, "‹"),
    h("div", { class: "names" },
      h("h1", { dir: "auto", title: row ? nameOf(row) : null }, row ? nameOf(row) : talk.problem?.status === 404 ? "Not found" : "…"),
      row && h("p", { class: "facts" },
        h("span", { class: `word ${look(row)}` }, row.asking ? "asks" : inWords(statusOf(row))),
        [` · ${row.tool ?? "no tool yet"}`, row.turn ?? row.turns ? plural(row.turn ?? row.turns, "turn") : "", spent(row.usage), row.mirror ? `on ${row.mirror}` : placeOf(row.project ?? "")].filter(Boolean).join(" · "))),
    row && isBusy && mayAct() && h("button", { onclick: stop, title: "Stop this turn" }, h("span", { class: "square", "aria-hidden": "true" }), "Stop"),
    row && h("button", { class: "quiet wide", onclick: () => openDialog("diff") }, "Diff"),
    row && h("button", { class: "quiet", popovertarget: "menu", "aria-haspopup": "true", "aria-label": "More", title: "More" }, "⋯"));
}

function notice() {
  const row = current();
  if (talk.refused) return h("div", { key: "refused", class: "notice", role: "status" }, talk.refused);
  if (talk.isGone || (talk.isLoaded && state.isComplete && !rowOf(talk.id) && !row?.mirror && state.link === "live")) {
    return h("div", { key: "gone", class: "notice", role: "status" }, "This session was deleted.",
      mayAct() && !row?.mirror && h("button", { onclick: () => restore(talk.id, title()) }, "Restore"));
  }
  if (row?.status === "away") return h("div", { key: "away", class: "notice", role: "status" }, `${row.mirror}, ${silence(row)}: it was running then, and may be running still.`);
  if (talk.link === "waiting" && talk.isLoaded && row && state.link !== "live") {
    return h("div", { key: "lost", class: "notice", role: "status" }, "Not connected: what you see may be old. What you type is kept.");
  }
  return null;
}

function waiting() {
  if (!talk.problem) return h("p", { class: "none" }, "Reading …");
  if (talk.problem.status === 404) return h("p", { class: "none" }, "There is no such session. It may have been deleted for good.");
  return h("p", { class: "none" }, talk.problem.words ?? String(talk.problem));
}

/** Put the sub-agents where they were started. */
function items() {
  const first = talk.messages[0], kids = childrenOf(talk.id).filter(row => talk.older === null || !first || madeAt(row.session_id) >= Date.parse(first.at));
  const found = [];
  let at = 0;
  for (const item of talk.messages) {
    while (at < kids.length && madeAt(kids[at].session_id) < Date.parse(item.at)) found.push(subAgent(kids[at++]));
    found.push(message(item, talk.whole.get(item.seq), ACTS));
  }
  found.push(...kids.slice(at).map(subAgent));
  if (!found.length) found.push(h("li", { key: "none", class: "none" }, "Nothing has been said yet."));
  return found;
}

function live(row) {
  if (row.status === "lost") {
    return h("section", { key: "lost", class: "card bad lost", "aria-label": "How the turn ended" }, h("p", { class: "label" }, "lost"),
      h("p", { class: "what" }, "Its process is gone, and nothing says how it ended. Send a prompt to go on."));
  }
  if (row.status !== "running") return null;
  return h("p", { class: "now" }, h("span", { class: "dot busy", "aria-hidden": "true" }), h("span", { class: "line", dir: "auto" }, shorten(row.doing || "starting", row.project)),
    row.started_at && h("span", { class: "when", "data-since": row.started_at }));
}

function whenMade(element) {
  scroller = element;
  talk.isAtEnd = true;
}

function whenScrolled() {
  const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
  if (scroller.scrollTop < EARLY) loadOlder();
  if (isAtEnd === talk.isAtEnd) return;
  talk.isAtEnd = isAtEnd;
  if (isAtEnd) talk.isNew = false;
  changed();
}

/** Keep the place: the end, or what was seen before older messages came. */
export function keepPlace() {
  if (!scroller?.isConnected) return;
  if (talk.fromEnd !== null) {
    scroller.scrollTop = scroller.scrollHeight - talk.fromEnd;
    talk.fromEnd = null;
  } else if (talk.isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}
