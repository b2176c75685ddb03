// Service worker of a page by `doorward share --page`: keeps the page for times without a network.
// Serve it as knock-worker.js from the page's own directory. The network comes first, so a new page replaces the old.

const CACHE = "doorward", PATIENCE_MS = 4000;

self.addEventListener("activate", (event) => event.waitUntil(keepOpenPages()));

self.addEventListener("fetch", (event) => {
  if (event.request.mode === "navigate") event.respondWith(newestPage(event.request));
});

async function keepOpenPages() {
  const cache = await caches.open(CACHE);
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  await Promise.all(pages.filter(({ url }) => url.startsWith(self.registration.scope)).map(({ url }) => cache.add(url)));
}

async function newestPage(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch {
    return (await cache.match(request)) ?? Response.error();
  }
}
