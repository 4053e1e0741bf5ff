// The menu, the dialogs, the diff, and the view in which a session is begun.
import { h, isEnter, isTouch } from "./dom.js";
import { ask, drafts, kept } from "./net.js";
import { act, changed, go, mayAct, placeOf, projects, state, toast, whyNot } from "./state.js";
import { current, remove, talk, title } from "./talk.js";
import { newId, plural } from "./words.js";

const MOST_LINES = 3000;

export function openDialog(kind, more = {}) {
  document.getElementById("menu")?.hidePopover();
  state.dialog = { kind, ...more };
  if (kind === "diff") loadDiff(state.dialog);
  changed();
}

const close = () => document.querySelector("dialog")?.close();

function dialog(kind, name, ...kids) {
  return h("dialog", {
    key: kind, class: kind, "aria-labelledby": "dialog-title", onclose: () => ((state.dialog = null), changed()),
    onclick: event => event.target === event.currentTarget && close(),
    made: element => queueMicrotask(() => element.isConnected && !element.open && element.showModal()),
  }, h("div", { class: "inside" },
    h("header", {}, h("h2", { id: "dialog-title" }, name), h("button", { class: "quiet", type: "button", onclick: close, "aria-label": "Close" }, "✕")),
    kids));
}

/** Draw what lies above the page. */
export function dialogs() {
  const { dialog: open } = state;
  return open ? VIEWS[open.kind](open) : null;
}

export function menu() {
  const row = current();
  if (!row || state.route.view !== "session") return null;
  const entry = (words, run, look = "") => h("button", { class: look, onclick: () => (document.getElementById("menu").hidePopover(), run()) }, words);
  return h("div", { id: "menu", popover: "auto", class: "menu" },
    entry("Copy resume command", copyCommand),
    entry("Show diff", () => openDialog("diff")),
    mayAct() && [
      entry("Rename …", () => openDialog("rename")),
      entry(row.pinned ? "Unpin" : "Pin", () => pin(!row.pinned)),
      !row.mirror && entry("Fork …", () => openDialog("fork")),
      !row.mirror && entry("Compact the conversation", compact),
      h("hr"),
      entry("Delete", () => (row.status === "running" || row.pinned ? openDialog("confirm") : remove(false)), "danger"),
    ]);
}

async function copyCommand() {
  const row = current(), command = `csa run --session ${row?.mirror ? `${row.mirror}:` : ""}${talk.id} ""`;
  try {
    await navigator.clipboard.writeText(command);
    toast("Copied.");
  } catch {
    openDialog("copy", { command }); // no clipboard without TLS
  }
}

async function pin(pinned) {
  if (await act("PATCH", `/sessions/${talk.id}`, { pinned })) toast(pinned ? "Pinned: clean-up leaves it alone." : "Unpinned.");
}

async function compact() {
  toast("Compacting the conversation …");
  if (await act("POST", `/sessions/${talk.id}/compress`, {})) toast("The conversation was compacted.");
}

const VIEWS = {
  rename: () => form("rename", "Rename", "Save", ({ name, description }) =>
    act("PATCH", `/sessions/${talk.id}`, { name: name || null, description }),
  field("Name", h("input", { name: "name", value: current()?.name ?? "", autocomplete: "off", autofocus: true })),
  field("Description", h("input", { name: "description", value: current()?.description ?? "", autocomplete: "off" }))),

  fork: () => form("fork", "Fork", "Start", async ({ name, prompt }) => {
    const begun = await act("POST", `/sessions/${talk.id}/fork`, { prompt, ...(name && { name }) });
    if (begun) go(`/s/${begun.session_id}`);
    return begun;
  },
  h("p", {}, "A new session with a copy of this conversation; this one stays as it is."),
  field("Prompt", draft("textarea", `fork:${talk.id}`, { name: "prompt", rows: "4", required: true, autofocus: true })),
  field("Name", h("input", { name: "name", autocomplete: "off" }))),

  confirm: () => {
    const isBusy = current()?.status === "running";
    return dialog("confirm", `Delete ${title()}?`,
      h("p", {}, isBusy ? "It is running, and will be stopped first." : "It is pinned.", " It can be restored for some days."),
      h("div", { class: "buttons" }, h("button", { onclick: close, autofocus: true }, "Keep"),
        h("button", { class: "danger", onclick: () => (close(), remove(true)) }, isBusy ? "Stop and delete" : "Delete")));
  },

  copy: ({ command }) => dialog("copy", "Resume command",
    h("input", { readonly: true, value: command, "aria-label": "Command", autofocus: true, onfocus: event => event.target.select() })),

  help: () => dialog("help", "Keyboard", h("dl", { class: "keyboard" }, KEYS.map(([keys, what]) =>
    h("div", { key: keys }, h("dt", {}, keys.split(" ").map((key, at) => [at ? " " : "", h("kbd", { key }, key)])), h("dd", {}, what))))),

  diff: open => dialog("diff", `Changes of ${title()}`, diffView(open)),
};

export const KEYS = [
  ["n", "New session"], ["/", "Filter sessions"], ["j k", "Next and previous session"], ["i", "Write a prompt"],
  ["Enter", "Send the prompt"], ["Shift Enter", "New line in the prompt"], ["d", "Show the diff"], ["Esc", "Leave a field, close, go back"], ["?", "These keys"],
];

function field(label, input) {
  return h("label", { class: "field" }, h("span", {}, label), input);
}

/** A field whose text is kept until it was sent. */
function draft(tag, name, props) {
  return h(tag, { ...props, made: element => (element.value = drafts.get(name)), oninput: event => drafts.set(name, event.target.value) });
}

function form(kind, name, button, send, ...fields) {
  const submit = async event => {
    event.preventDefault();
    const element = event.target;
    if (element.ariaBusy === "true") return;
    element.ariaBusy = "true";
    const done = await send(Object.fromEntries(new FormData(element)));
    element.ariaBusy = null;
    if (!done) return;
    drafts.clear(`${kind}:${talk.id}`, element.elements.prompt?.value ?? "");
    close();
  };
  return dialog(kind, name, h("form", { onsubmit: submit }, fields, h("div", { class: "buttons" },
    h("button", { type: "button", onclick: close }, "Cancel"), h("button", { class: "primary", type: "submit" }, button))));
}

// The diff

async function loadDiff(open) {
  try {
    const found = await ask("GET", `/sessions/${talk.id}/diff`);
    Object.assign(open, { found, parts: parts(found.diff.split("\n")) });
  } catch (error) {
    open.problem = error.words ?? String(error);
  }
  changed();
}

function diffView({ found, parts, problem }) {
  if (problem) return h("p", { class: "none", role: "alert" }, problem);
  if (!found) return h("p", { class: "none" }, "Reading …");
  if (!found.diff.trim()) return h("p", { class: "none" }, ["No changes.", ...remarks(found)].join(" "));
  const left = parts.reduce((sum, part) => sum + part.lines.length - part.shown, 0);
  return h("div", { class: "lines", memo: "read", tabindex: "0", role: "region", "aria-label": "Diff" },
    remarks(found).map(words => h("p", { class: "aside", key: words }, words)),
    parts.map(part => h("section", { key: part.at },
      h("h3", { title: part.name }, h("span", { class: "path" }, part.name),
        h("span", { class: "facts" }, h("span", { class: "good" }, `+${part.plus}`), " ", h("span", { class: "bad" }, `−${part.minus}`))),
      part.shown > 0 && h("pre", {}, part.lines.slice(0, part.shown).map(line => h("span", { class: tone(line) }, line || " "))))),
    left > 0 && h("p", { class: "none" }, `${plural(left, "more line")}: csa diff shows all.`));
}

function remarks({ truncated, unclear = [], also = [], notes = [] }) {
  return [
    ...notes,
    unclear.length && `Left out, as they were changed at another time, too: ${unclear.join(", ")}`,
    also.length && `Other sessions ran there meanwhile, and may have made some of these changes: ${also.join(", ")}`,
    truncated && "The diff is too long to be shown as a whole.",
  ].filter(Boolean);
}

const tone = line => (line.startsWith("@@") ? "place" : line.startsWith("+") ? "plus" : line.startsWith("-") ? "minus" : "");
const HEADS = /^(index |--- |\+\+\+ |new file mode|deleted file mode|old mode|new mode|similarity|rename )/;

/** Return the files of a diff, with how many of their lines are shown. */
function parts(lines) {
  const found = [];
  let part = null, isHead = false;
  for (const [at, line] of lines.entries()) {
    if (line.startsWith("diff --git ") || !part) {
      part = { at, name: line.replace(/^diff --git .* "?b\//, "").replace(/"$/, ""), lines: [], plus: 0, minus: 0 };
      found.push(part);
      isHead = true;
      if (line.startsWith("diff --git ")) continue;
    }
    if (line.startsWith("@@")) isHead = false;
    if (isHead && HEADS.test(line)) continue;
    if (!isHead) part.plus += line.startsWith("+");
    if (!isHead) part.minus += line.startsWith("-");
    part.lines.push(line);
  }
  let left = MOST_LINES;
  for (const each of found) {
    each.shown = Math.min(left, each.lines.length);
    left -= each.shown;
  }
  return found;
}

// A new session

export const begin = { projects: null, tools: null, hosts: [], isSending: false, problem: null, id: null, body: null };

export async function loadChoices() {
  Object.assign(begin, { problem: null });
  const read = path => ask("GET", path).catch(() => null);
  const [places, tools, hosts] = await Promise.all(["/projects", "/tools", "/hosts"].map(read));
  begin.projects = places?.map(each => each.project) ?? projects();
  begin.tools = tools;
  begin.hosts = hosts ?? [];
  changed();
}

export function beginView() {
  if (!mayAct()) return h("main", { class: "talk", id: "main", tabindex: "-1" }, h("p", { class: "none" }, whyNot()));
  const places = begin.projects ?? projects(), isKnown = begin.projects !== null;
  const chosen = kept.get("project");
  return h("main", { class: "talk", id: "main", tabindex: "-1" },
    h("header", { class: "bar" }, h("a", { class: "button quiet back", href: "#/", "aria-label": "All sessions" }, "‹"), h("div", { class: "names" }, h("h1", {}, "New session"))),
    h("div", { class: "scroll" }, h("form", { class: "begin", onsubmit: start },
      begin.problem && h("p", { class: "problem", role: "alert" }, begin.problem),
      field("What is the agent to do?", draft("textarea", "new", {
        name: "prompt", rows: "6", dir: "auto", required: true, id: "prompt",
        onkeydown: event => isEnter(event) && !isTouch() && (event.preventDefault(), event.target.form.requestSubmit()),
      })),
      h("div", { class: "choices" },
        field("Project", places.length || !isKnown
          ? h("select", { name: "directory", required: true }, places.map(place => h("option", { key: place, value: place, selected: place === chosen }, placeOf(place))))
          : h("input", { name: "directory", required: true, placeholder: "/path/of/project" })),
        begin.hosts.length > 0 && field("Runs on", h("select", { name: "on" }, h("option", { value: "" }, "this host"),
          begin.hosts.map(({ host, kind }) => h("option", { key: host, value: host }, kind === "ssh" ? host : `${host} (${kind})`)))),
        field("Tool", h("select", { name: "tool" }, h("option", { value: "auto" }, "automatic"),
          (begin.tools ?? []).filter(tool => tool.installed ?? tool.version).map(tool => h("option", { key: nameTool(tool), value: nameTool(tool) }, nameTool(tool))))),
        field("Permission", h("select", { name: "permission" }, h("option", { value: "" }, "as configured"),
          ["read-only", "edit", "full"].map(level => h("option", { key: level, value: level }, level)))),
        field("Model", h("input", { name: "model", autocomplete: "off", placeholder: "the tool's own" })),
        field("Name", h("input", { name: "name", autocomplete: "off", placeholder: "none" }))),
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "ask" }), "It may ask me for what its permission denies, if its tool can"),
      h("div", { class: "buttons" }, h("button", { class: "primary", type: "submit", disabled: begin.isSending }, begin.isSending ? "Starting …" : "Start")))));
}

const nameTool = tool => tool.tool ?? tool.name;

async function start(event) {
  event.preventDefault();
  if (begin.isSending) return;
  const body = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim()));
  if (body.ask) body.ask = true;
  Object.assign(begin, { isSending: true, problem: null });
  changed();
  const said = JSON.stringify(body);
  if (begin.body !== said) Object.assign(begin, { body: said, id: newId() }); // else it is the one whose answer was lost
  try {
    const begun = await ask("POST", "/sessions", { ...body, session_id: begin.id });
    begin.body = null;
    drafts.clear("new", body.prompt);
    kept.set("project", body.directory);
    if (state.route.view === "new") go(`/s/${begun.session_id}`);
    else toast("Started.", { action: { words: "Show", run: () => go(`/s/${begun.session_id}`) } });
  } catch (error) {
    begin.problem = error.status === 0 ? "No answer: the server cannot be reached. Start it again: it will not run twice." : `Not started: ${error.words ?? error}`;
  } finally {
    begin.isSending = false;
    changed();
  }
}

