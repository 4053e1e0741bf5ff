// The sessions at the left, as a tree that is kept up to date.
import { h, isEnter } from "./dom.js";
import { changed, childrenOf, fold, go, hosts, matches, mayAct, placeOf, projects, roots, state } from "./state.js";
import { age, inWords, look, madeAt, nameOf, shorten, silence, spent, statusOf } from "./words.js";

const DEEPEST = 8;

export function tree() {
  const wanted = state.filter.trim() || state.project;
  const tops = wanted ? roots().map(kept).filter(Boolean) : roots().map(row => ({ row, kids: null }));
  const places = [...projects(), ...hosts()];
  const running = [...state.rows.values()].filter(row => row.status === "running").length;
  return h("nav", { class: "side", "aria-label": "Sessions" },
    h("div", { class: "bar" },
      h("a", { class: "brand", href: "#/", "aria-label": "csa, start" }, h("span", { class: "logo", "aria-hidden": "true" }), "csa"),
      link(running),
      mayAct() && h("a", { class: "button primary", href: "#/new", title: "New session (n)" }, "New")),
    h("div", { class: "find" },
      h("input", {
        type: "search", id: "filter", placeholder: "Filter sessions", "aria-label": "Filter sessions", autocomplete: "off",
        spellcheck: "false", value: state.filter, oninput: event => filter(event.target.value),
        onkeydown: event => isEnter(event) && tops[0] && go(`/s/${firstMatch(tops[0]).session_id}`),
      }),
      places.length > 1 && h("select", { "aria-label": "Project or host", onchange: event => ((state.project = event.target.value), changed()) },
        h("option", { value: "" }, "All projects"),
        places.map(place => h("option", { key: place, value: place, selected: place === state.project }, place.startsWith("/") ? placeOf(place) : `on ${place}`)))),
    h("div", { class: "list" },
      tops.length > 0 && h("ul", {}, tops.slice(0, state.roots).map(top => node(top, 0))),
      tops.length > state.roots && h("button", { class: "more", onclick: () => ((state.roots += 200), changed()) },
        `Show more (${tops.length - state.roots})`),
      !tops.length && h("p", { class: "none" }, nothing(wanted))));
}

function nothing(wanted) {
  if (wanted) return "No session matches.";
  return state.isComplete ? "No sessions yet." : "Reading sessions …";
}

function link(running) {
  const isLive = state.link === "live";
  const words = isLive ? (running ? `${running} running` : "live") : navigator.onLine ? "reconnecting …" : "offline";
  return h("span", { class: `link ${isLive ? "live" : "lost"}`, title: isLive ? "Connected" : "What you see may be old" }, words);
}

function filter(words) {
  state.filter = words;
  state.roots = 100;
  changed();
}

/** Return a session with those below it that match, or null. */
function kept(row, depth = 0) {
  const kids = depth < DEEPEST ? childrenOf(row.session_id).map(child => kept(child, depth + 1)).filter(Boolean) : [];
  return kids.length || matches(row) ? { row, kids } : null;
}

const firstMatch = ({ row, kids }) => (matches(row) || !kids?.length ? row : firstMatch(kids[0]));

function node({ row, kids }, depth) {
  const children = kids ?? childrenOf(row.session_id).map(child => ({ row: child, kids: null }));
  const id = row.session_id, isFolded = !kids && state.folded.has(id), isOpen = state.route.id === id;
  return h("li", { key: `${row.mirror ?? ""} ${row.project} ${id}` },
    h("div", { class: isOpen ? "row open" : "row" },
      h("a", { href: `#/s/${id}`, "aria-current": isOpen ? "page" : null, title: row.description && row.name ? row.description : null },
        h("span", { class: `dot ${look(row)}`, "aria-hidden": "true" }),
        h("span", { class: "name", dir: "auto" }, row.pinned && h("span", { class: "pin", title: "pinned" }, "◆ "), nameOf(row)),
        when(row),
        h("span", { class: "doing" },
          h("span", { class: `word ${look(row)}` }, row.asking ? "asks" : inWords(statusOf(row))),
          row.mirror && ` · on ${row.mirror}`, ` · ${row.tool ?? "no tool"}`, row.queued ? ` · ${row.queued} queued` : "", doing(row)),
        h("span", { class: "spent" }, spent(row.usage))),
      children.length > 0 && !kids && h("button", {
        class: "fold", "aria-expanded": String(!isFolded), "aria-label": `Sub-agents of ${nameOf(row)}`, onclick: () => fold(id),
      }, isFolded ? `+${children.length}` : "−")),
    children.length > 0 && !isFolded && depth < DEEPEST && h("ul", {}, children.map(child => node(child, depth + 1))));
}

function doing(row) {
  if (row.status === "away") return ` · ${silence(row)}`;
  if (row.mirror && row.status !== "running") return "";
  if (row.status !== "running") return state.project || projects().length < 2 || row.parent_session_id ? "" : ` · ${placeOf(row.project)}`;
  return ` · ${shorten(row.doing || "starting", row.project)}`;
}

function when(row) {
  if (row.status === "running" && row.started_at) {
    return h("span", { key: "clock", class: "when", "data-since": row.started_at });
  }
  const used = Date.parse(row.started_at ?? "") + 1000 * (row.duration_s ?? 0) || madeAt(row.session_id);
  return h("span", { key: "age", class: "when" }, age(used));
}
