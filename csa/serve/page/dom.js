// Elements from descriptions: what is the same stays, with its focus, its selection and whether it is open.

/** Describe an element. `key` tells siblings apart, `memo` says that nothing has changed while it is the same. */
export function h(tag, props, ...kids) {
  return { tag, props: props ?? {}, kids: flatten(kids), element: null };
}

function flatten(kids) {
  return kids.flat(Infinity).filter(kid => kid !== null && kid !== undefined && kid !== false && kid !== "")
    .map(kid => (typeof kid === "object" ? kid : { tag: "", text: String(kid), props: {}, kids: [], element: null }));
}

const shown = new WeakMap(); // what an element's children were made from

/** Make an element's children what is described. */
export function render(root, ...kids) {
  const focused = document.activeElement;
  patch(root, shown.get(root) ?? [], flatten(kids));
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function patch(parent, old, now) {
  shown.set(parent, now);
  if (!old.length) parent.replaceChildren();
  const known = named(old), wanted = named(now);
  for (const [name, node] of known) if (!wanted.has(name)) node.element.remove();
  let place = parent.firstChild;
  for (const [name, node] of wanted) {
    const before = known.get(name);
    if (before) update(node, before);
    else create(node);
    if (node.element === place) place = place.nextSibling;
    else parent.insertBefore(node.element, place);
  }
}

function named(nodes) {
  const found = new Map(), counts = {};
  for (const node of nodes) {
    const { key } = node.props;
    found.set(key === undefined ? `${node.tag} ${(counts[node.tag] = (counts[node.tag] ?? 0) + 1)}` : `${node.tag}:${key}`, node);
  }
  return found;
}

function create(node) {
  if (!node.tag) {
    node.element = document.createTextNode(node.text);
    return;
  }
  node.element = document.createElement(node.tag);
  for (const [name, value] of Object.entries(node.props)) set(node.element, name, value, undefined);
  if (node.props.html === undefined) patch(node.element, [], node.kids);
  node.props.made?.(node.element);
}

function update(node, before) {
  const element = (node.element = before.element);
  if (!node.tag) {
    if (node.text !== before.text) element.data = node.text;
    return;
  }
  if (node.props.memo !== undefined && node.props.memo === before.props.memo) {
    node.kids = before.kids;
    node.props = before.props;
    return;
  }
  for (const name of Object.keys(before.props)) if (!(name in node.props)) set(element, name, null, before.props[name]);
  for (const [name, value] of Object.entries(node.props)) set(element, name, value, before.props[name]);
  if (node.props.html === undefined) patch(element, before.kids, node.kids);
}

const OURS = new Set(["key", "memo", "made"]);

function set(element, name, value, before) {
  if (OURS.has(name) || value === before) return;
  if (name === "html") setMarkup(element, value);
  else if (name.startsWith("on")) element[name] = value ? event => void value(event) : null; // false would cancel
  else if (name === "value" && element.tagName !== "OPTION") {
    if (element.value !== value) element.value = value ?? "";
  } else if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : value);
}

/** Show Markdown that the server has rendered. Nothing else may become HTML here. */
function setMarkup(element, html) {
  element.innerHTML = html ?? "";
}

export const isTouch = () => matchMedia("(pointer: coarse)").matches;

/** Say whether a key is an Enter that means "go", not the end of a word in an input method (which Safari says with 229). */
export const isEnter = event => event.key === "Enter" && !event.shiftKey && !event.altKey && !event.isComposing && event.keyCode !== 229;
