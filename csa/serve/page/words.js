// Figures and states as people read them, in the words of the command line.
import { now } from "./net.js";

export function elapsed(seconds) {
  const whole = Math.max(0, Math.floor(seconds)), two = n => String(n).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 360_000) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d${two(Math.floor((whole % 86_400) / 3600))}h`;
}

export function age(moment) {
  const seconds = (now() - moment) / 1000;
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

export function count(number) {
  for (const [unit, size] of [["M", 1e6], ["k", 1e3]]) {
    if (number >= size) return (number / size).toFixed(number / size >= 100 ? 0 : 1) + unit;
  }
  return String(number);
}

export const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export function spent(usage) {
  if (!usage) return "";
  const tokens = (usage.input_tokens ?? 0) + (usage.output_tokens ?? 0);
  const cost = usage.cost_usd;
  const money = cost ? `$${cost.toFixed(cost < 0.1 ? 3 : cost < 100 ? 2 : 0)}` : "";
  return [tokens ? count(tokens) : "", money].filter(Boolean).join(" · ");
}

const LOOKS = {
  running: "busy", open: "busy", succeeded: "good", failed: "bad", killed: "bad", lost: "bad", damaged: "bad",
  timed_out: "warn", cancelled: "warn", unknown: "warn", away: "warn",
};
export const look = row => (row.asking ? "warn" : LOOKS[statusOf(row)] ?? "calm");
export const statusOf = row => (row.phase === "closed" && row.status !== "running" ? "closed" : row.status);
export const inWords = status => String(status).replaceAll("_", " ");

/** Say what is known of a session whose host is silent. */
export const silence = row => (row.heard_at ? `last heard of at ${clock(row.heard_at)}` : "not heard of");

const TURNS = /[\u202a-\u202e\u2066-\u2069]/g; // which would have the words around a name read backwards
export const nameOf = row => (row.name || row.description || row.prefix || row.session_id).replace(TURNS, "");

/** Return a text with the paths in a project as they are from there. */
export function shorten(words, project) {
  const place = `${project}/`.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return project ? words.replace(new RegExp(`(?<![\\w./-])${place}`, "g"), "") : words;
}

export const kinds = { execute: "$", read: "read", edit: "edit", search: "search", fetch: "fetch", delete: "delete" };

const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/** Return when a session was made, which its id says, in milliseconds. */
export const madeAt = id => [...id.slice(0, 10)].reduce((sum, digit) => sum * 32 + DIGITS.indexOf(digit), 0);

/** Return the id of a session that is made now. */
export function newId() {
  let moment = now(), id = "";
  for (let n = 0; n < 10; n++) {
    id = DIGITS[moment % 32] + id;
    moment = Math.floor(moment / 32);
  }
  return id + [...crypto.getRandomValues(new Uint8Array(16))].map(byte => DIGITS[byte % 32]).join("");
}

const sameDay = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const otherDay = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export function clock(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return "";
  return (moment.toDateString() === new Date(now()).toDateString() ? sameDay : otherDay).format(moment);
}

export function size(characters) {
  return characters < 1000 ? `${characters}` : characters < 1e6 ? `${Math.round(characters / 1e3)} kB` : `${(characters / 1e6).toFixed(1)} MB`;
}
