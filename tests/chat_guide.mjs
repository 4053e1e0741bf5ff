// What aomi's guide to sessions tells its readers to write, as it stands there between the marks. Around it: where the
// server is and its token, which every client adds to `fetch` by itself, and what the test wants to know.
const { CSA_URL, CSA_TOKEN } = process.env;
const own = globalThis.fetch;
const fetch = (path, init = {}) =>
  own(new URL(path, CSA_URL), { ...init, headers: { ...init.headers, Authorization: `Bearer ${CSA_TOKEN}` } });
const seen = { logged: [] };
const console = { log: (value) => seen.logged.push(value) };
const eventsOf = async (response, isLast) => {
  const events = [];
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) events.push(JSON.parse(line.slice(6)));
    }
    if (events.some(isLast)) break;
  }
  await reader.cancel();
  return events;
};

// --- the guide
const sessionId = crypto.randomUUID();
// ---
const updates = await (async () => {
  // --- the guide
  const response = await fetch("/api/updates", {
    headers: {
      "X-Session-Id": sessionId,
      Accept: "text/event-stream",
    },
  });
  // Read response.body and parse each `data:` line as JSON.
  // Event types: title_changed, tool_update, tool_complete, system_notice.
  // ---
  return response;
})();
seen.updates = [updates.status, updates.headers.get("content-type")];
const events = eventsOf(updates, (event) => event.kind === "run_finished");

// --- the guide
const response = await fetch(
  `/api/chat?message=${encodeURIComponent("Hello")}&app=mycoindex`,
  {
    method: "POST",
    headers: {
      "X-Session-Id": sessionId,
      "AOMI-APP-KEY": "sk-mcd-...",
    },
  },
);
// ---
seen.sessionId = sessionId;
seen.chat = [response.status, await response.json()];
seen.events = await events;

const poll = async () => {
  // --- the guide
  const state = await fetch("/api/state", {
    headers: { "X-Session-Id": sessionId },
  }).then((r) => r.json());

  console.log(state.is_processing); // true | false
  console.log(state.user_state?.evm?.address); // "0x742d..." or undefined
  // ---
  return state;
};
do {
  seen.state = await poll();
} while (seen.state.is_processing);

// What aomi's own client sends.
const address = "0x742d35Cc6634C0532925a3b844Bc9e7595f2bD68";
const userState = JSON.stringify({ evm: { address, chain_id: 1 } });
const query = new URLSearchParams({ user_state: userState, client_id: "c1" });
seen.echoed = await fetch(`/api/state?${query}`, { headers: { "X-Session-Id": sessionId } }).then((r) => r.json());
await poll();
const thread = crypto.randomUUID();
const json = { "X-Session-Id": thread, "Content-Type": "application/json" };
const call = async (path, init) => {
  const answer = await fetch(path, init);
  return [answer.status, await answer.json()];
};
const body = JSON.stringify({ public_key: address });
seen.thread = thread;
seen.created = await call("/api/sessions", { method: "POST", headers: json, body });
seen.listed = await call(`/api/sessions?public_key=${address}`, { headers: { "X-Session-Id": thread } });
seen.renamed = await call(`/api/sessions/${thread}`, {
  method: "PATCH",
  headers: json,
  body: JSON.stringify({ title: "My Topic" }),
});
seen.got = await call(`/api/sessions/${thread}`, { headers: { "X-Session-Id": thread } });
seen.deleted = await call(`/api/sessions/${thread}`, { method: "DELETE", headers: { "X-Session-Id": thread } });
seen.gone = await call(`/api/sessions/${thread}`, { headers: { "X-Session-Id": thread } });
process.stdout.write(JSON.stringify(seen));
