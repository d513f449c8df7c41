// Keeps the page live: fetches it anew and changes only what differs, so that focus, typed text, selection and scroll stay.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const main = document.getElementById("main");
  const form = document.getElementById("filter");
  let timer, running, seen = new Date();

  function morph(old, next) {
    if (old.isEqualNode(next)) return;
    if (old.nodeName !== next.nodeName || old.id !== next.id) return void old.replaceWith(next);
    if (old.nodeType !== Node.ELEMENT_NODE) return void (old.nodeValue = next.nodeValue);
    for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [was, is] = [[...old.childNodes], [...next.childNodes]];
    is.forEach((child, place) => (place < was.length ? morph(was[place], child) : old.append(child)));
    was.slice(is.length).forEach((child) => child.remove());
  }

  function show(fresh) {
    const focused = document.activeElement?.id;
    morph(main, fresh.getElementById("main"));
    document.title = fresh.title;
    if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  function complain() {
    const notice = document.getElementById("notice");
    if (!notice.hidden) return;
    notice.textContent = `The daemon does not answer. This is from ${seen.toISOString().slice(11, 19)} UTC; trying again.`;
    notice.hidden = false;
  }

  async function refresh() {
    clearTimeout(timer);
    running?.abort();
    const mine = (running = new AbortController());
    const limit = setTimeout(() => mine.abort("late"), 2 * EVERY_MS);
    try {
      const text = await (await fetch(location.href, { cache: "no-store", signal: mine.signal })).text();
      show(new DOMParser().parseFromString(text, "text/html"));
      seen = new Date();
    } catch (error) {
      if (mine === running) complain();
    }
    clearTimeout(limit);
    if (mine === running && !document.hidden) timer = setTimeout(refresh, EVERY_MS);
  }

  form?.addEventListener("input", () => {
    history.replaceState(null, "", "?" + new URLSearchParams(new FormData(form)));
    clearTimeout(timer);
    timer = setTimeout(refresh, 200);
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  if (!document.hidden) timer = setTimeout(refresh, EVERY_MS);
})();
