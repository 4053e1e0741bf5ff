// Where prompts are written. What is typed is kept until the server has it.
import { h, isEnter, isTouch } from "./dom.js";
import { ask, drafts, Failure } from "./net.js";
import { changed, mayAct, say, toast, whyNot } from "./state.js";
import { current, lastTurn, refresh, talk } from "./talk.js";

let isKept = true; // what is typed outlives this tab
const sending = new Set(); // sessions to which a prompt is on its way
const unanswered = new Map(); // what was sent there last, if the server did not answer

const isBusy = row => row.status === "running" || row.status === "open" || talk.busyRow === row; // as the server said of it

export function composer(row) {
  if (!mayAct()) return h("p", { class: "composer reader" }, whyNot());
  const busy = isBusy(row), isSending = sending.has(talk.id), isShut = busy && row.mirror; // queues are of this host
  return h("form", { class: "composer", onsubmit: event => (event.preventDefault(), send()), "aria-label": "Prompt" },
    talk.unsent && h("p", { key: "problem", class: "problem", role: "alert" }, talk.unsent),
    h("div", { class: "box" },
      h("textarea", {
        id: "prompt", key: talk.id, rows: "1", dir: "auto", "aria-label": "Prompt", "aria-describedby": "keys", readonly: isSending,
        placeholder: row.phase === "closed" ? "This session is closed" : isShut ? `It is working on ${row.mirror}` : busy ? "Queue a prompt for when it has finished" : "Continue this session",
        made: element => restore(element, talk.id), oninput: event => typed(event.target), onkeydown: pressed,
      }),
      h("button", { class: "primary", type: "submit", disabled: isSending || Boolean(isShut) }, isSending ? "Sending …" : busy && !isShut ? "Queue" : "Send")),
    h("p", { key: "keys", class: "keys", id: "keys" }, isKept
      ? isShut ? "What you type is kept, and can be sent when it has finished." : busy ? `It is working: your prompt runs ${row.queued ? `after ${row.queued} queued already` : "next"}.` : row.queued ? `${row.queued} queued.` : row.phase === "closed" ? `Nothing runs in it any more. Fork it, or: csa run --session ${row.session_id} --reopen "…"`
        : isTouch() ? "" : "Enter sends, Shift+Enter begins a new line"
      : "This browser cannot keep drafts: copy what matters before you leave."));
}

function restore(element, id) {
  element.value = drafts.get(id);
  grow(element);
}

function grow(element) {
  element.rows = Math.min(12, element.value.split("\n").length);
}

function typed(element) {
  const wasKept = isKept;
  isKept = drafts.set(talk.id, element.value);
  grow(element);
  if (isKept === wasKept && !talk.unsent) return;
  talk.unsent = null;
  changed();
}

function pressed(event) {
  if (!isEnter(event) || isTouch()) return;
  event.preventDefault();
  send();
}

async function send() {
  const { id } = talk, row = current(), prompt = field().value;
  if (!prompt.trim() || sending.has(id) || !row || (row.mirror && isBusy(row))) return;
  const shouldQueue = isBusy(row);
  sending.add(id);
  talk.unsent = null;
  changed();
  try {
    if (await hasArrived(id, prompt, shouldQueue)) return sent(id, prompt);
    unanswered.set(id, { prompt, turn: lastTurn(), queued: shouldQueue ? row.queued ?? 0 : null });
    if (shouldQueue) await ask("POST", `/sessions/${id}/queue`, { prompt });
    else await ask("POST", `/sessions/${id}/turns`, { prompt, after_turn: lastTurn() });
    sent(id, prompt);
    if (shouldQueue) {
      row.queued = (row.queued ?? 0) + 1; // the stream says so with the next thing that happens there
      toast("Queued: it runs when this turn has finished.");
    } else say("Sent.");
  } catch (error) {
    if (isAnswer(error)) unanswered.delete(id);
    if (talk.id === id) await explain(error);
    else toast(`Not sent: ${error.words ?? error}`, { isError: true });
  } finally {
    sending.delete(id);
    changed();
  }
}

/** Say whether csa itself has refused: a gateway in between does not know what has become of it. */
const isAnswer = ({ status }) => status > 0 && ![502, 503, 504].includes(status);

const field = () => document.querySelector(".composer textarea");

function sent(id, prompt) {
  unanswered.delete(id);
  drafts.clear(id, prompt);
  if (talk.id !== id) return;
  const element = field();
  if (element) {
    element.value = "";
    grow(element);
  }
  talk.busyRow = null;
  talk.isAtEnd = true;
}

/** Say whether a prompt whose answer was lost has reached the session all the same: it must not run twice. */
async function hasArrived(id, prompt, shouldQueue) {
  const last = unanswered.get(id);
  if (last?.prompt !== prompt) return false;
  if (!(await refresh()) && shouldQueue) throw new Failure(0); // else `after_turn` guards it
  if (talk.messages.some(item => item.role === "user" && item.turn > last.turn && isSame(item, prompt))) return true;
  if (last.queued === null) return false;
  const { queued } = await ask("GET", `/sessions/${id}`), row = current();
  if (row) row.queued = queued;
  if ((queued ?? 0) <= last.queued) return false;
  unanswered.delete(id);
  throw new Error("one was queued when there was no answer, most likely this one. Send it again to have it run twice.");
}

const isSame = (item, prompt) => (item.is_cut ? prompt.startsWith(item.text) : prompt.trim() === item.text.trim());

async function explain(error) {
  if (error.status === 412) {
    await refresh();
    talk.isAtEnd = true;
    talk.unsent = "Another prompt was sent to this session meanwhile. Look at it above; your text is still here.";
  } else if (error.status === 409 && current()?.mirror) {
    talk.unsent = `Not sent: ${error.words ?? error.message}`;
  } else if (error.status === 409) {
    talk.busyRow = current();
    talk.unsent = `${error.message} You can queue your prompt instead.`;
  } else if (error.status !== undefined && !isAnswer(error)) {
    talk.unsent = "No answer: the server cannot be reached. Your text is kept, and will not be sent twice.";
  } else talk.unsent = `Not sent: ${error.words ?? error.message}`;
}
