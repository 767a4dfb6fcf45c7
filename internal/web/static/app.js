// Follows the stream of the view and patches what changed into the document. The page works without it, but stands still.
const stream = document.body.dataset.stream;
const lost = document.getElementById("lost");
const say = document.getElementById("say");
const silenceMax = 10; // ticks without a word until the connection counts as lost; ticks, so that a sleep of the machine is none
const retryEvery = 1000; // ms, of a tick too
let source = null;
let silent = 0;
let since = null;

function connect() {
  if (source) source.close();
  source = new EventSource(stream);
  silent = 0;
  source.addEventListener("patch", (e) => { alive(); patch(JSON.parse(e.data)); });
  source.addEventListener("beat", alive);
  source.addEventListener("out", () => location.reload());
  source.onopen = alive;
  source.onerror = () => { missing(); if (source.readyState === EventSource.CLOSED) again(); };
}

function alive() {
  silent = 0;
  since = null;
  lost.hidden = true;
}

function missing() {
  if (!since) since = new Date();
  lost.textContent = "No connection to the agent since " + since.toLocaleTimeString() + ": what is shown is as it was then. Trying again.";
  lost.hidden = false;
}

// again tries until the agent answers; one that does not know this login any more leads to the login.
async function again() {
  source.close();
  for (;;) {
    await new Promise((ready) => setTimeout(ready, retryEvery));
    try {
      const answer = await fetch("/static/app.css", { cache: "no-store" });
      if (!answer.ok) continue;
      const page = await fetch(location.href, { method: "HEAD", redirect: "manual", cache: "no-store" });
      if (page.type === "opaqueredirect" || page.status === 401 || page.status === 404) { location.reload(); return; }
      connect();
      return;
    } catch { missing(); }
  }
}

function patch(message) {
  for (const [id, ids] of Object.entries(message.lists ?? {})) order(document.getElementById(id), ids);
  for (const [id, html] of message.parts ?? []) {
    const old = document.getElementById(id);
    if (!old) continue;
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const fresh = holder.content.firstElementChild;
    if (fresh) morph(old, fresh);
  }
  if (message.say?.length) say.textContent = message.say.join(". ");
}

// order gives the list these children in this order; new ones are empty until their part comes.
function order(list, ids) {
  if (!list) return;
  const known = new Map([...list.children].map((child) => [child.id, child]));
  let at = list.firstElementChild;
  for (const id of ids) {
    let child = known.get(id);
    known.delete(id);
    if (!child) { child = document.createElement("div"); child.id = id; }
    if (child === at) at = at.nextElementSibling; else list.insertBefore(child, at);
  }
  for (const child of known.values()) child.remove();
}

// morph makes old like fresh and touches only what differs, so that focus, selection and scrolling stay.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes], after = [...fresh.childNodes];
  for (let i = 0; i < after.length; i++) {
    if (i < before.length) morph(before[i], after[i]); else old.append(after[i]);
  }
  for (let i = after.length; i < before.length; i++) before[i].remove();
}

if (stream) {
  connect();
  setInterval(() => { if (++silent > silenceMax) { missing(); connect(); } }, retryEvery);
}
