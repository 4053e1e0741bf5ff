// Where prompts are written. What is typed is kept until the server has it.
import { h } from "./dom.js";
import { ask, drafts } from "./net.js";
import { changed, mayAct, say, toast } from "./state.js";
import { current, lastTurn, refresh, talk } from "./talk.js";

const writing = { id: null, problem: null, isSending: false, isKept: true, shouldQueue: false };

const isBusy = row => row.status === "running" || row.status === "open" || writing.shouldQueue;

export function composer(row) {
  if (!mayAct()) return h("p", { class: "composer reader" }, "This token may only read.");
  if (writing.id !== talk.id) Object.assign(writing, { id: talk.id, problem: null, isSending: false, shouldQueue: false });
  const busy = isBusy(row);
  return h("form", { class: "composer", onsubmit: event => (event.preventDefault(), send()), "aria-label": "Prompt" },
    writing.problem && h("p", { key: "problem", class: "problem", role: "alert" }, writing.problem),
    h("div", { class: "box" },
      h("textarea", {
        id: "prompt", key: talk.id, rows: "1", dir: "auto", "aria-label": "Prompt", "aria-describedby": "keys", readonly: writing.isSending,
        placeholder: busy ? "Queue a prompt for when it has finished" : "Continue this session",
        made: element => restore(element, talk.id), oninput: event => typed(event.target), onkeydown: pressed,
      }),
      h("button", { class: "primary", type: "submit", disabled: writing.isSending }, writing.isSending ? "Sending …" : busy ? "Queue" : "Send")),
    h("p", { key: "keys", class: "keys", id: "keys" }, writing.isKept
      ? busy ? `It is working: your prompt runs next.${row.queued ? ` ${row.queued} queued already.` : ""}` : row.queued ? `${row.queued} queued.` : "Enter sends, Shift+Enter begins a new line"
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
  const isKept = drafts.set(talk.id, element.value);
  grow(element);
  if (isKept === writing.isKept && !writing.problem) return;
  writing.isKept = isKept;
  writing.problem = null;
  changed();
}

export const isTouch = () => matchMedia("(pointer: coarse)").matches;

function pressed(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.altKey || isTouch()) return;
  event.preventDefault();
  send();
}

async function send() {
  const element = document.getElementById("prompt"), { id } = talk, row = current();
  const prompt = element.value;
  if (!prompt.trim() || writing.isSending || !row) return;
  const shouldQueue = isBusy(row);
  Object.assign(writing, { isSending: true, problem: null });
  changed();
  try {
    if (shouldQueue) await ask("POST", `/sessions/${id}/queue`, { prompt });
    else await ask("POST", `/sessions/${id}/turns`, { prompt, after_turn: lastTurn() });
    drafts.clear(id, prompt);
    if (shouldQueue) {
      row.queued = (row.queued ?? 0) + 1; // the stream says so with the next thing that happens there
      toast("Queued: it runs when this turn has finished.");
    } else say("Sent.");
    if (writing.id === id) {
      element.value = "";
      grow(element);
      Object.assign(writing, { shouldQueue: false });
      talk.isAtEnd = true;
    }
  } catch (error) {
    if (writing.id === id) await explain(error);
    else toast(`Not sent: ${error.words}`, { isError: true });
  } finally {
    if (writing.id === id) writing.isSending = false;
    changed();
  }
}

async function explain(error) {
  if (error.status === 412) {
    await refresh();
    talk.isAtEnd = true;
    writing.problem = "Another prompt was sent to this session meanwhile. Look at it above; your text is still here.";
  } else if (error.status === 409) {
    writing.shouldQueue = true;
    writing.problem = `${error.message} You can queue your prompt instead.`;
  } else writing.problem = `Not sent: ${error.words ?? error}`;
}
