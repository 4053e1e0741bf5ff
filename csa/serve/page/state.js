// What the page knows: the sessions, which one is open, and what is to be said. Views are made from it alone.
import { ask, kept } from "./net.js";
import { nameOf } from "./words.js";

export const state = {
  access: null, // "read" or "act"; null while unknown
  denied: null, // why a token is asked for
  link: "waiting", // "live", "waiting"
  isComplete: false,
  isOutdated: false,
  rows: new Map(), // by project and id
  route: { view: "home", id: null },
  filter: "",
  project: "",
  folded: new Set((kept.get("folded") ?? "").split(" ").filter(Boolean)),
  roots: 100, // how many top sessions are listed
  toasts: [],
  said: "", // for screen readers
  dialog: null,
};

let draw = () => {}, isPlanned = false;
export const onChange = call => (draw = call);

/** Draw soon, once for all changes until then. */
export function changed() {
  if (isPlanned) return;
  isPlanned = true;
  const run = () => {
    isPlanned = false;
    draw();
  };
  if (document.hidden) setTimeout(run, 500);
  else requestAnimationFrame(run);
}

export const mayAct = () => state.access === "act";

/** Say why nothing can be done here: what the token allows is known only when the server has said it. */
export const whyNot = () => (state.access === null ? "Asking what this token allows …" : "Only reading is allowed here.");

const keyOf = row => `${row.mirror ?? ""}\n${row.project}\n${row.session_id}`;

export function takeRows(name, data) {
  if (name === "snapshot") state.rows = new Map();
  for (const row of data.sessions) state.rows.set(keyOf(row), row);
  for (const gone of data.removed ?? []) state.rows.delete(keyOf(gone));
  state.isComplete = data.complete;
  cached = null;
  changed();
}

let cached = null;
/** Return the session by id, the children of each, and the projects. */
function index() {
  if (cached) return cached;
  const byId = new Map(), children = new Map();
  for (const row of state.rows.values()) {
    if (!row.mirror || !byId.has(row.session_id)) byId.set(row.session_id, row); // that of this host comes first
  }
  for (const row of byId.values()) {
    const parent = row.parent_session_id;
    if (parent) children.set(parent, [...(children.get(parent) ?? []), row]);
  }
  const namesOf = call => [...new Set([...byId.values()].map(call).filter(Boolean))].sort();
  for (const list of children.values()) list.sort((a, b) => (a.session_id < b.session_id ? -1 : 1));
  return (cached = { byId, children, projects: namesOf(row => !row.mirror && row.project), hosts: namesOf(row => row.mirror) });
}

export const rowOf = id => index().byId.get(id);
export const childrenOf = id => index().children.get(id) ?? [];

const usedAt = row => row.started_at ?? row.last_accessed ?? "";

/** Return the sessions without a parent that is there, those at work first, then the last used. */
export function roots() {
  const { byId } = index();
  const isBusy = (row, seen = new Set()) =>
    row.status === "running" || (!seen.has(row) && (seen.add(row), childrenOf(row.session_id).some(child => isBusy(child, seen))));
  const latest = (row, depth = 0) =>
    childrenOf(row.session_id).reduce((last, child) => (depth > 9 ? last : max(last, latest(child, depth + 1))), usedAt(row));
  return [...byId.values()].filter(row => !byId.has(row.parent_session_id))
    .map(row => ({ row, isBusy: isBusy(row), at: latest(row) }))
    .sort((a, b) => b.isBusy - a.isBusy || (a.at < b.at ? 1 : a.at > b.at ? -1 : a.row.session_id < b.row.session_id ? 1 : -1))
    .map(({ row }) => row);
}

const max = (a, b) => (a > b ? a : b);

export const projects = () => index().projects;
/** The other hosts that sessions are on. */
export const hosts = () => index().hosts;
const isThere = row => !state.project || (state.project.startsWith("/") ? !row.mirror && row.project === state.project : row.mirror === state.project);

/** Return the shortest end of a project's path that only it has. */
export function placeOf(project) {
  const parts = project.split("/").filter(Boolean), others = projects().filter(other => other !== project);
  for (let n = 1; n < parts.length; n++) {
    const end = parts.slice(-n).join("/");
    if (!others.some(other => `/${other}`.endsWith(`/${end}`))) return end;
  }
  return project;
}

export function matches(row) {
  const text = `${nameOf(row)} ${row.description ?? ""} ${row.session_id} ${row.tool ?? ""} ${row.status} ${row.doing ?? ""} ${row.mirror ?? ""}`.toLowerCase();
  return isThere(row) &&
    state.filter.toLowerCase().split(/\s+/).every(word => text.includes(word));
}

export function fold(id) {
  if (!state.folded.delete(id)) state.folded.add(id);
  kept.set("folded", [...state.folded].slice(-200).join(" "));
  changed();
}

let toasts = 0;
/** Say something for a while; with an action, longer. */
export function toast(words, { isError = false, action = null } = {}) {
  const item = { key: ++toasts, words, isError, action };
  state.toasts = [...state.toasts.slice(-2), item];
  setTimeout(() => dismiss(item), action ? 20_000 : isError ? 12_000 : 5000);
  changed();
}

export function dismiss(item) {
  state.toasts = state.toasts.filter(other => other !== item);
  changed();
}

/** Say something to screen readers. */
export function say(words) {
  state.said = words === state.said ? `${words}\u00a0` : words; // else nobody would hear it again
  changed();
}

/** Do something on the server; say what it failed with. Returns its answer, or null. */
export async function act(method, path, body) {
  try {
    return (await ask(method, path, body)) ?? {};
  } catch (error) {
    if (error.status !== 401) toast(error.words ?? String(error), { isError: true });
    return null;
  }
}

export const go = place => (location.hash = place);
