// Service worker of a page by `doorward share --page`: keeps the page for times without a network.
// Serve it as knock-worker.js from the page's own directory. Its scope is the page's path, so that it leaves the other
// pages of the site alone. The network comes first, so a new page replaces the old.

const CACHE = "doorward", PATIENCE_MS = 4000;
const PAGE = self.registration.scope;

self.addEventListener("activate", (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.add(PAGE))));

self.addEventListener("fetch", (event) => {
  const { mode, url } = event.request;
  if (mode === "navigate" && new URL(url).pathname === new URL(PAGE).pathname) event.respondWith(newestPage(event.request));
});

async function newestPage(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) await cache.put(PAGE, response.clone()).catch(() => null); // it may not be one to keep
    return response;
  } catch {
    return (await cache.match(PAGE)) ?? Response.error();
  }
}
