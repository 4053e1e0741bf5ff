// One message of a conversation, and what is around it.
import { h } from "./dom.js";
import { mayAct } from "./state.js";
import { clock, elapsed, inWords, kinds, look, nameOf, shorten, size, spent } from "./words.js";

const MARKS = { completed: ["✓", "good"], failed: ["✗", "bad"], denied: ["⊘", "warn"], in_progress: ["…", "busy"] };

/** Describe a message. `acts` has what its buttons do; `whole` the message with all of its text, once that was asked for. */
export function message(item, whole, acts) {
  const shown = whole ?? item;
  return h("li", { key: item.seq, class: `message ${item.role}`, memo: `${item.version} ${Boolean(whole)} ${mayAct()}` }, VIEWS[item.role]?.(item, shown, acts));
}

const VIEWS = {
  user: (item, shown, acts) => [
    h("p", { class: "turn" }, [`Turn ${item.turn}`, item.tool, item.model, clock(item.at)].filter(Boolean).join(" · ")),
    h("div", { class: "prompt" }, h("h2", { class: "hidden" }, "Prompt"), text(shown), rest(item, shown, acts)),
  ],
  assistant: (item, shown, acts) => [
    shown.html !== null && h("div", { class: "markdown", html: shown.html }),
    shown.html === null && shown.text.trim() !== "" && text(shown),
    rest(item, shown, acts),
    item.calls.length > 0 && h("ul", { class: "calls" }, item.calls.map((call, at) => one(call, shown.calls[at] ?? call, item, acts))),
  ],
  thought: (item, shown, acts) => h("details", { class: "thinking" },
    h("summary", {}, h("span", { class: "label" }, "Thinking"), h("span", { class: "line", dir: "auto" }, firstLine(item.text))),
    text(shown), rest(item, shown, acts)),
  system: (item, shown) => h("p", { class: "aside" }, shown.text),
  note: (item, shown) => h("p", { class: "aside" }, shown.text),
  ask: (item, shown, acts) => permission(item, acts),
  end: item => end(item.end),
};

const text = shown => h("div", { class: "text", dir: "auto" }, shown.text);
const firstLine = words => words.trim().split("\n", 1)[0].replaceAll("**", "").slice(0, 200);

/** The button for the rest of a text that was cut. */
function rest(item, shown, acts) {
  if (shown !== item || !item.is_cut) return null;
  return h("button", { class: "more", onclick: () => acts.whole(item.seq) }, `Show all of it (${size(item.length)})`);
}

function one(call, shown, item, acts) {
  const [mark, tone] = MARKS[call.status] ?? ["·", "calm"];
  const said = acts.shorten(firstLine(call.title));
  const label = said.toLowerCase().startsWith(`${call.kind} `) ? "" : kinds[call.kind] ?? "";
  const title = said + (call.exit_code ? `  exit ${call.exit_code}` : "");
  const line = [
    h("span", { class: `mark ${tone}`, role: "img", "aria-label": inWords(call.status) }, mark),
    label && h("span", { class: "kind" }, label),
    h("span", { class: "line" }, title),
  ];
  const isLong = call.title.length > 100 || call.title.includes("\n");
  if (!call.content && !isLong) return h("li", { class: "call" }, h("div", { class: "head" }, line));
  return h("li", { class: "call" }, h("details", {},
    h("summary", { class: "head" }, line),
    isLong && h("pre", { class: "title", tabindex: "0" }, shown.title),
    shown.content && h("pre", { tabindex: "0" }, call.kind === "edit" ? acts.shorten(shown.content) : shown.content),
    shown === call && call.length > call.content.length &&
      h("button", { class: "more", onclick: () => acts.whole(item.seq) }, `Show all of it (${size(call.length)})`)));
}

function permission(item, acts) {
  const isOpen = item.ask.status === "pending";
  return h("section", { class: isOpen ? "card asks" : "card", "aria-label": "Permission" },
    h("p", { class: "label" }, isOpen ? "The agent asks for a permission" : `Permission ${inWords(item.ask.status)}`),
    h("p", { class: "what" }, item.text),
    isOpen && mayAct() && h("div", { class: "buttons" },
      h("button", { class: "primary", onclick: () => acts.answer(item.ask.ask, true) }, "Allow once"),
      h("button", { onclick: () => acts.answer(item.ask.ask, false) }, "Deny")));
}

function end(end) {
  const facts = [end.duration_s !== null && elapsed(end.duration_s), end.used].filter(Boolean).join(" · ");
  if (end.status === "succeeded") return h("p", { class: "ended" }, h("span", { class: "mark good", role: "img", "aria-label": "succeeded" }, "✓"), ` ${facts}`);
  return h("section", { class: `card ${look(end)}`, "aria-label": "How the turn ended" },
    h("p", { class: "label" }, inWords(end.status), h("span", { class: "facts" }, facts)),
    end.message && h("p", { class: "what" }, end.message),
    end.hint && h("p", { class: "hint" }, "Next: ", h("code", {}, end.hint)));
}

/** Describe a sub-agent, at the place where it was started. */
export function subAgent(row) {
  const isBusy = row.status === "running";
  return h("li", { key: `sub ${row.session_id}`, class: "message sub" },
    h("a", { class: "card child", href: `#/s/${row.session_id}` },
      h("span", { class: `dot ${look(row)}`, "aria-hidden": "true" }),
      h("span", { class: "name", dir: "auto" }, nameOf(row)),
      h("span", { class: "facts" }, row.mirror && `on ${row.mirror} · `, row.tool ?? "",
        isBusy && row.started_at ? [" · ", h("span", { key: "clock", "data-since": row.started_at })] : row.duration_s ? ` · ${elapsed(row.duration_s)}` : "",
        spent(row.usage) && ` · ${spent(row.usage)}`),
      h("span", { class: "doing" }, h("span", { class: `word ${look(row)}` }, row.asking ? "asks" : inWords(row.status)),
        isBusy ? ` · ${shorten(row.doing || "starting", row.project)}` : row.description && row.name ? ` · ${row.description}` : "")));
}
