// The page as a whole: who may see it, what is open, and the keys.
import { beginView, dialogs, loadChoices, menu, openDialog } from "./dialogs.js";
import { h, render } from "./dom.js";
import { ask, follow, isOutdated, kept, now, takeToken, whenDenied } from "./net.js";
import { changed, dismiss, go, mayAct, onChange, roots, rowOf, say, state, takeRows } from "./state.js";
import { closeTalk, keepPlace, openTalk, talk, talkView } from "./talk.js";
import { tree } from "./tree.js";
import { elapsed, inWords, nameOf } from "./words.js";

let stream = null, seen = null, lostAt = null, isLearning = false;

async function boot() {
  stream?.close();
  state.denied = null;
  changed();
  const token = kept.get("token");
  if (!token) return deny("none");
  if (!/^[\x21-\x7e]+$/.test(token)) return deny("revoked"); // no header can have it
  stream = follow("/events", (name, data) => whenTold(name, JSON.parse(data)), whenLinked);
  learnAccess();
  route({ isAgain: true });
}

/** Ask what the token may do, until there is an answer. */
async function learnAccess() {
  if (isLearning) return;
  isLearning = true;
  try {
    state.access = (await ask("GET", "/version")).access;
    changed();
  } catch (error) {
    if (error.status !== 401) setTimeout(learnAccess, 2000);
  } finally {
    isLearning = false;
  }
}

function whenTold(name, data) {
  const before = state.route.id ? rowOf(talk.id)?.status : null;
  takeRows(name, data);
  const row = state.route.id ? rowOf(talk.id) : null;
  if (before === "running" && row && row.status !== "running") say(`${nameOf(row)}: ${inWords(row.status)}`);
}

async function whenLinked(link) {
  if (link === "gone") return deny("revoked");
  const wasLost = lostAt !== null;
  if (link !== "live" && state.link === "live") {
    lostAt = now();
    say("Not connected.");
  }
  if (link === "live") lostAt = null;
  state.link = link;
  changed();
  if (link !== "live" || !wasLost) return;
  say("Connected again.");
  learnAccess();
  state.isOutdated = await isOutdated();
  changed();
}

function deny(why) {
  if (state.denied) return;
  stream?.close();
  closeTalk();
  state.denied = why;
  state.link = "waiting";
  changed();
}

function route({ isAgain = false } = {}) {
  const [view, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  let id = null;
  try {
    id = view === "s" && rest.length ? decodeURIComponent(rest.join("/")) : null;
  } catch {
    // not an address of ours
  }
  const next = id ? "session" : view === "new" ? "new" : "home";
  const isOther = next !== state.route.view || id !== state.route.id;
  state.route = { view: next, id };
  const isFirst = seen === null;
  seen = next;
  if (!isOther && !isAgain && talk.id === id) return;
  openTalk(id);
  if (next === "new") loadChoices();
  changed();
  if (!isFirst) requestAnimationFrame(() => focusView(next));
}

function focusView(view) {
  if (view === "new") document.getElementById("prompt")?.focus();
  else if (view === "session") document.getElementById("main")?.focus({ preventScroll: true });
  else document.querySelector(".row a")?.focus({ preventScroll: true });
}

// Drawing

function draw() {
  render(document.getElementById("app"),
    h("div", { key: "shell", class: `shell at-${state.denied ? "gate" : state.route.view}${state.link === "live" ? "" : " old"}` }, state.denied ? gate() : [
      h("a", { class: "skip", href: "#main", onclick: event => (event.preventDefault(), document.getElementById("main")?.focus()) }, "Skip to the conversation"),
      tree(),
      state.route.view === "session" ? talkView() : state.route.view === "new" ? beginView() : home(),
      menu(),
    ]),
    h("div", { key: "dialogs" }, dialogs()),
    h("div", { key: "toasts", class: "toasts" }, upgrade(), state.toasts.map(toastView)),
    h("p", { key: "said", class: "hidden", role: "status" }, state.said));
  document.title = title();
  tick();
  keepPlace();
}

function title() {
  const row = state.route.view === "session" ? rowOf(talk.id) : null;
  const asking = [...state.rows.values()].filter(each => each.asking).length;
  return `${asking ? `(${asking}) ` : ""}${row ? `${nameOf(row)} – ` : ""}csa`;
}

function home() {
  return h("main", { class: "talk home", id: "main", tabindex: "-1" }, h("div", { class: "welcome" },
    h("h1", {}, state.rows.size ? "Choose a session" : state.isComplete ? "No sessions yet" : "csa"),
    h("p", {}, mayAct() ? "Or begin a new one: an agent works in your project, in the background." : "What agents do here shows up at the left."),
    mayAct() && h("a", { class: "button primary", href: "#/new" }, "New session"),
    h("p", { class: "keys" }, "Press ", h("kbd", {}, "?"), " for the keys.")));
}

function gate() {
  const take = event => {
    event.preventDefault();
    const given = new FormData(event.target).get("token").trim();
    kept.set("token", given.replace(/^.*#token=/, ""));
    boot();
  };
  return h("main", { class: "gate", id: "main" }, h("form", { onsubmit: take },
    h("span", { class: "logo", "aria-hidden": "true" }),
    h("h1", {}, "This page needs a token"),
    h("p", { role: "alert" }, state.denied === "revoked" ? "The one it had is not accepted any more: it was revoked, or another server is here now." : "",
      " On the machine that runs csa: ", h("code", {}, "csa serve url")),
    h("input", { type: "password", name: "token", required: true, autocomplete: "off", "aria-label": "Token or address", placeholder: "Token, or the whole address" }),
    h("button", { class: "primary", type: "submit" }, "Open")));
}

function upgrade() {
  return state.isOutdated && h("div", { key: "upgrade", class: "toast", role: "status" }, "csa was upgraded. What you have typed is kept.",
    h("button", { onclick: () => location.reload() }, "Reload"));
}

function toastView(item) {
  return h("div", { key: item.key, class: item.isError ? "toast error" : "toast", role: item.isError ? "alert" : "status" },
    h("span", {}, item.words),
    item.action && h("button", { onclick: () => (dismiss(item), item.action.run()) }, item.action.words),
    h("button", { class: "quiet", "aria-label": "Dismiss", onclick: () => dismiss(item) }, "✕"));
}

/** Show the time of what runs, as far as is known, without drawing anything else. */
function tick() {
  for (const element of document.querySelectorAll("[data-since]")) {
    const words = elapsed(((lostAt ?? now()) - Date.parse(element.dataset.since)) / 1000);
    if (element.textContent !== words) element.textContent = words;
  }
}

// Keys

const KEYS = {
  n: () => mayAct() && go("/new"),
  "/": () => document.getElementById("filter")?.focus(),
  "?": () => openDialog("help"),
  i: () => document.getElementById("prompt")?.focus(),
  d: () => state.route.view === "session" && openDialog("diff"),
  j: () => step(1),
  k: () => step(-1),
};

function step(by) {
  const links = [...document.querySelectorAll(".row a")];
  const at = links.findIndex(link => link.getAttribute("aria-current"));
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
  if (!next) return;
  next.scrollIntoView({ block: "nearest" });
  location.hash = next.hash;
}

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || state.denied) return;
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "Escape" && !document.querySelector("dialog[open], :popover-open")) {
    if (isTyping) event.target.blur();
    else if (state.route.view !== "home") go("/");
    return;
  }
  if (isTyping || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

takeToken();
onChange(draw);
whenDenied(() => deny(kept.get("token") ? "revoked" : "none"));
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    takeToken();
    boot();
  } else route();
});
addEventListener("storage", event => event.key === "csa:token" && event.newValue && state.denied && boot());
addEventListener("keydown", pressed);
addEventListener("online", changed);
addEventListener("offline", changed);
document.addEventListener("visibilitychange", () => document.hidden || changed());
setInterval(tick, 1000);
setInterval(() => roots().length && changed(), 60_000);
boot();
