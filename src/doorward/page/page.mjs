// The page of `doorward share --page`. share_page.py puts the other files in front of it, all in one module.

const TEXT = {
  addresses: (list) => `Knocks at ${list.join(" and ")}`,
  foot: "This page holds no secret of the server. Anyone who can change it can sign with this browser's key, also for later.",
  duration: (seconds) => (seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`),
  doorClosed: (duration) => `Opens for ${duration}`,
  knock: (door) => `Open ${door}`,
  again: "Knock again",
  close: "Close",
  goTo: (link) => `Go to ${link}`,
  knocking: "Knocking…",
  closing: "Closing…",
  open: "Open",
  left: (seconds) => (seconds < 100 ? `${seconds} s` : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`),
  over: "Closed again",
  closed: "Closed",
  silent: "Knocked",
  closeSent: "Close sent",
  failed: "Not sent",
  confirmedHint: "The server took the knock: connect now. Established connections continue when the time is over.",
  silentHint: "Nothing answered, which can be by design. Try to connect now.",
  silentCloseHint: "Nothing answered, which can be by design.",
  closedHint: "The server closed it. Established connections continue.",
  blockedHint: "The browser sent no packet: there is no network, or an extension, a VPN or a policy keeps WebRTC from sending.",
  whySilent: "If it stays closed",
  reasons: [
    "The server's operator has not allowed this browser's key yet, or not for this door.",
    "The clock of this device is off by more than a minute.",
    "A VPN or a private relay is on: the door then opens for its address, or the packet does not get through.",
    "This network lets no UDP out, or the server does not accept knocks from browsers.",
  ],
  key: "This browser's key",
  keyIntro: "The server's operator has to allow this key once: send them this line. It is public. The private key stays in this browser and cannot be exported.",
  keyName: "Name of this device",
  copy: "Copy", copied: "Copied", share: "Share", code: "QR code",
  codeLabel: "QR code of the line above",
  operator: "Command for the operator",
  remove: "Delete this key…",
  removeSure: "Delete this key? The server's operator has to allow the next one.",
  defaultName: (system) => `browser-on-${system}`,
  insecure: "This page needs https, or a file on this device: browsers keep cryptography from pages loaded over http.",
  framed: "This page does not work within another one, which could trick you into pressing its buttons. Open it by itself.",
  noWebRtc: "WebRTC is switched off in this browser. The page cannot send knocks without it.",
  noCurve: "This browser is too old: it lacks X25519. Chromium 133, Firefox 130 and Safari 17 have it.",
  noStore: "This browser does not keep data for this page (a private window?). The key will be lost when it is closed.",
  clock: (seconds) => `The clock of this device is about ${Math.abs(seconds)} s ${seconds > 0 ? "ahead" : "behind"}. The server rejects knocks from a wrong clock: set it first.`,
  sequenceFoot: "This page contains the port sequences of its doors. They are secret: anyone who has the page can open the doors.",
  sequenceHint: "The sequence was sent. Nothing answers a sequence: try to connect now.",
  sequenceReasons: [
    "The network delayed a packet, or swapped two. Knock again.",
    "A VPN or a private relay is on: the door then opens for its address, or the packets do not get through.",
    "This network does not let packets out to some of the ports.",
  ],
  sequenceOverHttps: "Browsers send no port sequences from a page loaded over https. Open it as a file on this device.",
  unknownDoor: (door) => `This page has no door ${door}.`,
};

const GATE = JSON.parse(document.getElementById("gate").textContent);
const WORKER = "knock-worker.js";
const MAX_NAME_LETTERS = 40;
const HAS_SEQUENCES = GATE.key === null; // in place of signed knocks

// --- The document ---

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function notice(text) {
  document.getElementById("main").prepend(element("p", { class: "notice", role: "alert" }, text));
}

function qrImage(text) {
  const { data, size } = encode(text, { border: 4 });
  const svgNamespace = "http://www.w3.org/2000/svg";
  const image = document.createElementNS(svgNamespace, "svg");
  const path = document.createElementNS(svgNamespace, "path");
  const dark = data.flatMap((row, y) => row.flatMap((isDark, x) => (isDark ? [`M${x} ${y}h1v1h-1z`] : [])));
  path.setAttribute("d", dark.join(""));
  const attributes = { viewBox: `0 0 ${size} ${size}`, class: "qr", role: "img", "aria-label": TEXT.codeLabel, "shape-rendering": "crispEdges" };
  for (const [name, value] of Object.entries(attributes)) image.setAttribute(name, value);
  image.append(path);
  return image;
}

// --- The key, in IndexedDB ---

function inStore(mode, use) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("doorward", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("keys");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      try {
        const transaction = opening.result.transaction("keys", mode);
        const request = use(transaction.objectStore("keys"));
        transaction.oncomplete = () => resolve(request.result);
        transaction.onabort = () => reject(transaction.error);
      } catch (error) {
        reject(error); // private windows may refuse to keep a key
      } finally {
        opening.result.close(); // when the transaction has ended
      }
    };
  });
}

/** The key record: { pair, name, isUsed }. Two tabs that begin at once end with the same key. */
async function loadKey() {
  const find = () => inStore("readonly", (store) => store.get("key")).catch(() => null);
  const kept = await find();
  if (kept) return kept;
  const made = { pair: await makeKeyPair(), name: deviceName(), isUsed: false };
  await inStore("readwrite", (store) => store.add(made, "key")).catch(() => null);
  const stored = await find();
  if (!stored) notice(TEXT.noStore);
  return stored ?? made;
}

async function keepKey(record) {
  await inStore("readwrite", (store) => store.put(record, "key")).catch(() => null);
}

function deviceName() {
  const system = /android|iphone|ipad|windows|mac os|cros|linux/i.exec(navigator.userAgent)?.[0] ?? "device";
  return TEXT.defaultName(cleanName(system.toLowerCase()));
}

/** A name that needs no quotes in a shell or in authorized_keys. */
function cleanName(text) {
  return text.trim().replace(/[^\p{L}\p{N}@._-]+/gu, "-").slice(0, MAX_NAME_LETTERS);
}

// --- Knocking ---

/** Knock at all addresses at once; the best result of any: "confirmed", "silent" or "blocked". */
async function sendKnock(signer, door, flags) {
  const request = { serverKey: parseServerKey(GATE.key), gate: GATE.gate, door, flags: flags | CONFIRM };
  const send = async (address) => knockStun(await makeKnock(request, signer), address, GATE.ports);
  const knocks = GATE.addresses.map(send);
  const confirmed = knocks.map(async (knock) => ((await knock) === "confirmed" ? "confirmed" : Promise.reject(new Error())));
  return Promise.any(confirmed).catch(async () => {
    const results = await Promise.all(knocks);
    return navigator.onLine && results.includes("silent") ? "silent" : "blocked"; // offline, WebRTC may count what it cannot send
  });
}

class DoorCard {
  constructor(door, key) {
    this.door = door;
    this.key = key;
    this.state = element("span", { class: "state", role: "status" });
    this.left = element("span", { class: "state", "aria-hidden": "true" }); // not read aloud each second
    this.hint = element("p", { class: "soft" });
    this.bar = element("progress", { max: door.seconds, "aria-hidden": "true", hidden: true });
    this.knockButton = element("button", { type: "button", class: "main", onclick: () => this.knock({ isClick: true }) });
    this.closeButton = element("button", { type: "button", class: "beside", onclick: () => this.close() }, TEXT.close);
    this.link = element("a", { class: "button beside", href: door.link || false, rel: "noreferrer" }, TEXT.goTo(door.link));
    this.why = element("details", {}, element("summary", {}, TEXT.whySilent));
    const reasons = HAS_SEQUENCES ? TEXT.sequenceReasons : TEXT.reasons;
    this.why.append(element("ul", {}, ...reasons.map((reason) => element("li", {}, reason))));
    this.title = element("h2", { id: `door-${door.name}` }, door.name);
    this.section = element(
      "section", { class: "card", "aria-labelledby": this.title.id },
      element("div", { class: "title" }, this.title, element("span", {}, this.state, " ", this.left)), this.hint, this.bar,
      element("div", { class: "buttons" }, this.link, this.knockButton, this.closeButton), this.why,
    );
    this.show("idle", TEXT.doorClosed(TEXT.duration(door.seconds)));
  }

  /** Show a state: idle, busy, open, silent, failed. */
  show(state, text, hint = "") {
    clearInterval(this.timer);
    this.section.className = `card ${state}`;
    this.state.textContent = text;
    this.left.textContent = "";
    this.hint.textContent = hint;
    this.hint.hidden = !hint;
    const isKnocked = state === "open" || state === "silent";
    this.knockButton.textContent = isKnocked ? TEXT.again : TEXT.knock(this.door.name);
    this.knockButton.disabled = this.closeButton.disabled = state === "busy";
    this.closeButton.hidden = !isKnocked || HAS_SEQUENCES;
    this.link.hidden = !isKnocked || !this.door.link;
    this.bar.hidden = state !== "open";
    this.why.hidden = state !== "silent";
    this.knockButton.classList.toggle("main", !isKnocked);
    this.knockButton.classList.toggle("beside", isKnocked);
    this.link.classList.toggle("main", isKnocked);
    this.link.classList.toggle("beside", !isKnocked);
  }

  async knock({ isClick = false } = {}) {
    const result = await this.send(OPEN, TEXT.knocking);
    if (result === "confirmed") {
      this.countDown();
      if (isClick && this.door.link) this.follow();
    } else if (result === "silent") this.show("silent", TEXT.silent, HAS_SEQUENCES ? TEXT.sequenceHint : TEXT.silentHint);
    return result;
  }

  async close() {
    const result = await this.send(CLOSE, TEXT.closing);
    if (result === "confirmed") this.show("idle", TEXT.closed, TEXT.closedHint);
    else if (result === "silent") this.show("idle", TEXT.closeSent, TEXT.silentCloseHint);
    return result;
  }

  async send(flags, text) {
    this.show("busy", text);
    try {
      await this.key?.use();
      const result = this.key ? await sendKnock(this.key.signer, this.door.name, flags) : await sendSequence(this.door, GATE.addresses);
      if (result === "blocked") this.show("failed", TEXT.failed, TEXT.blockedHint);
      return result;
    } catch (error) {
      this.show("failed", TEXT.failed, String(error.message));
      throw error;
    }
  }

  countDown() {
    const end = Date.now() + 1000 * this.door.seconds;
    this.show("open", TEXT.open, TEXT.confirmedHint);
    const tick = () => {
      const left = Math.ceil((end - Date.now()) / 1000);
      if (left <= 0) return this.show("idle", TEXT.over);
      this.bar.value = left;
      this.left.textContent = TEXT.left(left);
    };
    tick();
    this.timer = setInterval(tick, 250);
  }

  follow() {
    if (/^https?:/.test(this.door.link)) window.open(this.door.link, "_blank", "noopener");
    else location.assign(this.door.link); // an app's address leaves the page where it is
  }
}

// --- The key on the page ---

class KeyCard {
  constructor(record, signer) {
    this.record = record;
    this.signer = signer;
    this.line = element("code", { class: "box", id: "line" });
    this.command = element("code", { class: "box" });
    this.name = element("input", { id: "name", maxlength: MAX_NAME_LETTERS, autocomplete: "off", spellcheck: "false", value: record.name });
    this.name.addEventListener("input", () => this.rename());
    this.name.addEventListener("change", () => (this.name.value = this.record.name));
    this.image = element("div", { hidden: true });
    this.copyButton = element("button", { type: "button", class: "beside", onclick: () => this.copy() }, TEXT.copy);
    this.codeButton = element("button", { type: "button", class: "beside", "aria-expanded": "false", onclick: () => this.toggleCode() }, TEXT.code);
    const shareButton = element("button", { type: "button", class: "beside", hidden: !navigator.share, onclick: () => this.share() }, TEXT.share);
    this.section = element(
      "details", { class: "card", open: !record.isUsed },
      element("summary", {}, element("h2", { id: "key" }, TEXT.key)), element("p", { class: "soft" }, TEXT.keyIntro),
      element("label", { for: "name" }, TEXT.keyName), this.name, this.line,
      element("div", { class: "buttons" }, this.copyButton, shareButton, this.codeButton), this.image,
      element("details", {}, element("summary", {}, TEXT.operator), this.command),
      element("button", { type: "button", class: "plain", onclick: () => this.remove() }, TEXT.remove),
    );
    this.show();
  }

  get text() {
    // Other pages of the origin can write to the store, and the name goes into a command for the operator.
    return authorizedKeysLine(this.signer, cleanName(String(this.record.name)));
  }

  show() {
    this.line.textContent = this.text;
    const doors = GATE.doors.map(({ name }) => name).join(",");
    const longest = Math.max(...GATE.doors.map(({ seconds }) => seconds)); // all that the page asks for
    this.command.textContent = `doorward allow '${this.text}' --doors ${doors} --for-max ${longest}s`;
    this.image.replaceChildren(...(this.image.hidden ? [] : [qrImage(this.text)]));
  }

  async rename() {
    this.record.name = cleanName(this.name.value) || deviceName();
    this.show();
    await keepKey(this.record);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.text);
      this.copyButton.textContent = TEXT.copied;
      setTimeout(() => (this.copyButton.textContent = TEXT.copy), 2000);
    } catch {
      getSelection().selectAllChildren(this.line);
    }
  }

  share() {
    navigator.share({ text: this.text }).catch(() => null); // the user may close the dialog
  }

  toggleCode() {
    this.image.hidden = !this.image.hidden;
    this.codeButton.setAttribute("aria-expanded", String(!this.image.hidden));
    this.show();
  }

  async use() {
    if (this.record.isUsed) return;
    this.record.isUsed = true;
    await keepKey(this.record);
  }

  async remove() {
    if (!confirm(TEXT.removeSure)) return;
    await inStore("readwrite", (store) => store.delete("key")).catch(() => null);
    location.reload();
  }
}

// --- Obstacles ---

async function hasX25519() {
  return crypto.subtle.generateKey("X25519", false, ["deriveBits"]).then(() => true, () => false);
}

/** Warn if this device's clock differs from the page's server by a third of the server's window. */
async function compareClocks() {
  if (!location.protocol.startsWith("http")) return;
  const began = Date.now();
  const response = await fetch(location.href, { method: "HEAD", cache: "no-store" }).catch(() => null);
  const date = Date.parse(response?.headers.get("Date") ?? "");
  const ahead = Math.round(((began + Date.now()) / 2 - date) / 1000);
  if (Math.abs(ahead) > GATE.window / 3) notice(TEXT.clock(ahead));
}

function workOffline() {
  if (!location.protocol.startsWith("http")) return;
  navigator.serviceWorker?.register(WORKER, { scope: location.pathname }).catch(() => null); // not the other pages of the site
}

async function start() {
  document.getElementById("where").textContent = TEXT.addresses(GATE.addresses);
  document.getElementById("foot").textContent = HAS_SEQUENCES ? TEXT.sequenceFoot : TEXT.foot;
  if (window !== window.top) throw new Error(TEXT.framed);
  const key = HAS_SEQUENCES ? startSequences() : await startKey();
  const cards = GATE.doors.map((door) => new DoorCard(door, key));
  const sections = [...cards.map(({ section }) => section), ...(key ? [key.section] : [])];
  if (key && !key.record.isUsed) sections.unshift(sections.pop());
  document.getElementById("main").append(...sections);
  workOffline();
  return { key, cards: Object.fromEntries(cards.map((card) => [card.door.name, card])) };
}

function startSequences() {
  if (location.protocol === "https:") throw new Error(TEXT.sequenceOverHttps);
  return null;
}

async function startKey() {
  if (!globalThis.isSecureContext || !globalThis.crypto?.subtle) throw new Error(TEXT.insecure);
  if (typeof RTCPeerConnection === "undefined") throw new Error(TEXT.noWebRtc);
  if (!(await hasX25519())) throw new Error(TEXT.noCurve);
  const record = await loadKey();
  compareClocks();
  return new KeyCard(record, await signerOf(record.pair));
}

const started = start();
started.catch((error) => notice(error.message));

async function cardOf(door) {
  const { cards } = await started;
  if (!Object.hasOwn(cards, door)) throw new Error(TEXT.unknownDoor(door));
  return cards[door];
}

// For tests and password managers. knock and close resolve to "confirmed", "silent" or "blocked".
window.doorward = {
  line: async () => (await started).key?.text ?? "",
  knock: async (door) => (await cardOf(door)).knock(),
  close: async (door) => (await cardOf(door)).close(),
};
