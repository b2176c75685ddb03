// Signed knocks for doorward, version 1, from browsers and Node 18 or newer: no dependencies, WebCrypto only.
// The format is in docs/reference/signed-knock.md. SPDX-License-Identifier: MIT (the file LICENSE beside this one).

const webCrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto; // Node 18 has no global one
const { subtle } = webCrypto;

export const PACKET_BYTES = 190;
export const OPEN = 0, CLOSE = 1, ONCE = 2, CONFIRM = 4; // flags
const REPLY_BYTES = 80, SALT_BYTES = 16;
const REPLY_WAIT_MS = 3000, STUN_WAIT_MS = 2000;
const KEM = joined("KEM", [0, 0x20]);
const SUITE = joined("HPKE", [0, 0x20, 0, 1, 0, 1]);
const INFO = joined("doorward signed knock 1");
const BASE_POINT = Uint8Array.of(9, ...new Uint8Array(31));
const X25519_PKCS8 = fromHex("302e020100300506032b656e04220420"); // in front of a raw private key (RFC 8410)

// --- Bytes ---

/** Return strings (as UTF-8), arrays and byte arrays in one byte array. */
export function joined(...parts) {
  const arrays = parts.map((part) => (typeof part === "string" ? new TextEncoder().encode(part) : Uint8Array.from(part)));
  const all = new Uint8Array(arrays.reduce((length, array) => length + array.length, 0));
  let offset = 0;
  for (const array of arrays) {
    all.set(array, offset);
    offset += array.length;
  }
  return all;
}

/** Return a number as bytes, the most significant first. */
function number(value, length) {
  return Uint8Array.from({ length }, (_, index) => Math.floor(value / 256 ** (length - 1 - index)) % 256);
}

/** Return an SSH string: four bytes of length, and the bytes. */
function sshString(content) {
  const bytes = joined(content);
  return joined(number(bytes.length, 4), bytes);
}

export function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Return base64 (RFC 4648 section 4) with padding. */
function toBase64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

// --- Primitives ---

async function hash(algorithm, ...parts) {
  return new Uint8Array(await subtle.digest(algorithm, joined(...parts)));
}

async function hmac(key, ...parts) {
  // WebCrypto takes no empty key; zeros are the same key to HMAC.
  const raw = key.length ? key : new Uint8Array(32);
  const imported = await subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", imported, joined(...parts)));
}

/** HKDF-Expand of at most 32 bytes: its first block. */
async function expand(secret, info, length) {
  return (await hmac(secret, info, [1])).slice(0, length);
}

function labeledExtract(salt, suite, label, material) {
  return hmac(salt, "HPKE-v1", suite, label, material);
}

function labeledExpand(secret, suite, label, info, length) {
  return expand(secret, joined(number(length, 2), "HPKE-v1", suite, label, info), length);
}

async function exchange(privateKey, publicRaw) {
  const publicKey = await subtle.importKey("raw", publicRaw, "X25519", false, []);
  return new Uint8Array(await subtle.deriveBits({ name: "X25519", public: publicKey }, privateKey, 256));
}

// --- HPKE: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM (RFC 9180) ---

/** Return the ephemeral private key for 32 random bytes: where they repeat, two plaintexts still have two keys. */
export async function ephemeralKey(random, plaintext) {
  const secret = await labeledExtract([], KEM, "dkp_prk", await hmac(random, plaintext));
  return labeledExpand(secret, KEM, "sk", [], 32);
}

/** Seal to a raw public key with this ephemeral private key, which must never seal another plaintext. */
export async function sealWith(ephemeral, serverKey, plaintext) {
  const privateKey = await subtle.importKey("pkcs8", joined(X25519_PKCS8, ephemeral), "X25519", false, ["deriveBits"]);
  const enc = await exchange(privateKey, BASE_POINT);
  const shared = await exchange(privateKey, serverKey);
  const kemSecret = await labeledExtract([], KEM, "eae_prk", shared);
  const sharedSecret = await labeledExpand(kemSecret, KEM, "shared_secret", joined(enc, serverKey), 32);
  const secret = await labeledExtract(sharedSecret, SUITE, "secret", []);
  const modeBase = 0;
  const context = joined(
    [modeBase],
    await labeledExtract([], SUITE, "psk_id_hash", []),
    await labeledExtract([], SUITE, "info_hash", INFO),
  );
  const key = await labeledExpand(secret, SUITE, "key", context, 16);
  const nonce = await labeledExpand(secret, SUITE, "base_nonce", context, 12);
  const imported = await subtle.importKey("raw", key, "AES-GCM", false, ["encrypt"]);
  return joined(enc, new Uint8Array(await subtle.encrypt({ name: "AES-GCM", iv: nonce }, imported, plaintext)));
}

// --- Keys ---

/** Parse the server's public key, `x25519:BASE64`, to its 32 bytes. */
export function parseServerKey(word) {
  const [suite, encoded, ...rest] = word.trim().split(":");
  if (suite !== "x25519" || rest.length) throw new Error("a server's key of this suite begins with x25519:");
  const raw = fromBase64(encoded);
  if (raw.length !== 32) throw new Error(`a server's key of ${raw.length} bytes; it has 32`);
  return raw;
}

/** Make a key pair: Ed25519, or P-256 where that is missing. The private key cannot be exported. */
export async function makeKeyPair() {
  try {
    return await subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  } catch {
    return subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);
  }
}

/** Return the signer of a key pair of WebCrypto: `kind`, public key `blob`, and `sign(data)`, which gives 64 bytes. */
export async function signerOf(pair) {
  const raw = new Uint8Array(await subtle.exportKey("raw", pair.publicKey));
  const isEd25519 = pair.publicKey.algorithm.name === "Ed25519";
  const kind = isEd25519 ? "ssh-ed25519" : "ecdsa-sha2-nistp256";
  const blob = joined(sshString(kind), ...(isEd25519 ? [] : [sshString("nistp256")]), sshString(raw));
  const algorithm = isEd25519 ? "Ed25519" : { name: "ECDSA", hash: "SHA-256" };
  const sign = async (data) => new Uint8Array(await subtle.sign(algorithm, pair.privateKey, data));
  return { kind, blob, sign };
}

/** Return the signer's line of authorized_keys. */
export function authorizedKeysLine(signer, name) {
  return `${signer.kind} ${toBase64(signer.blob)} ${name}`.trim();
}

// --- The message ---

async function targetHash(gate, door) {
  return (await hash("SHA-256", "doorward target 1", [0, gate.length], gate, [door.length], door)).slice(0, 12);
}

/** Return the body; `request` is as in `makeKnock`, with `timeMs` and `nonce`. */
async function packBody(request, signer) {
  const { ipVersion = 0, prefix = 0, address = [] } = request.asked ?? {};
  return joined(
    [1, request.flags ?? CONFIRM],
    number(request.timeMs, 6),
    request.nonce,
    number(request.seconds ?? 0, 4),
    [ipVersion, prefix],
    address,
    new Uint8Array(16 - address.length),
    await targetHash(request.gate ?? "", request.door),
    (await hash("SHA-256", signer.blob)).slice(0, 12),
  );
}

/** Return the data to sign: SSHSIG's, over the server's key and the body. */
async function signedData(serverKey, body) {
  const text = joined("doorward signed knock 1", [0], number(serverKey.length, 2), serverKey, body);
  const parts = ["doorward", "", "sha512", await hash("SHA-512", text)];
  return joined("SSHSIG", ...parts.map(sshString));
}

/** Return the packet of a plaintext sealed with this ephemeral private key: the check, and what it is of. */
export async function packetOf(ephemeral, serverKey, plaintext) {
  const sealed = await sealWith(ephemeral, serverKey, plaintext);
  const checkKey = await hash("SHA-256", "doorward check 1", [0, 1], serverKey);
  return joined((await hmac(checkKey, sealed)).slice(0, 16), sealed);
}

/**
 * Make a signed knock. It is valid once and for about a minute: send it at once, make a new one for each address.
 *
 * request: { serverKey (32 bytes), door, gate: "", flags: CONFIRM, seconds: 0 (the door's own time),
 *            asked: { ipVersion, prefix, address } (default: the packet's source),
 *            timeMs: now, nonce: 8 random bytes, random: 32 random bytes }
 * Returns { packet, body, secret }: the 190 bytes, the signed fields, and the secret of the confirmation.
 */
export async function makeKnock(request, signer) {
  const random = (length) => webCrypto.getRandomValues(new Uint8Array(length));
  const fresh = { timeMs: Date.now(), nonce: random(8), random: random(32), ...request };
  const body = await packBody(fresh, signer);
  const plaintext = joined(body, await signer.sign(await signedData(fresh.serverKey, body)));
  const packet = await packetOf(await ephemeralKey(fresh.random, plaintext), fresh.serverKey, plaintext);
  return { packet, body, secret: await replySecret(packet, plaintext) };
}

// --- The confirmation ---

/** Return the secret that only the sender and the server have. */
export function replySecret(packet, plaintext) {
  return hmac(joined(packet.slice(0, 16), "doorward reply 1"), plaintext);
}

/** Open a confirmation: { isOpen, secondsLeft, timeMs, ipVersion, prefix, address }; null if it is not one of this knock. */
export async function openReply(secret, datagram) {
  if (datagram.length !== REPLY_BYTES) return null;
  const salt = datagram.slice(0, SALT_BYTES);
  const block = await expand(secret, joined("doorward reply 1", salt), 28);
  const key = await subtle.importKey("raw", block.slice(0, 16), "AES-GCM", false, ["decrypt"]);
  const algorithm = { name: "AES-GCM", iv: block.slice(16) };
  const text = await subtle.decrypt(algorithm, key, datagram.slice(SALT_BYTES)).catch(() => null);
  if (text === null) return null;
  const [version, code, ipVersion, prefix, ...rest] = new Uint8Array(text);
  const value = (bytes) => bytes.reduce((sum, byte) => sum * 256 + byte, 0);
  const secondsLeft = value(rest.slice(0, 4)), address = rest.slice(10, 26);
  const isKnown = version === 1 && (code === 0 || (code === 1 && !secondsLeft)) && !rest.slice(26).some(Boolean);
  if (!isKnown || !isPlace(ipVersion, prefix, address)) return null;
  const bytes = Uint8Array.from(address.slice(0, ipVersion === 4 ? 4 : 16));
  return { isOpen: code === 0, secondsLeft, timeMs: value(rest.slice(4, 10)), ipVersion, prefix, address: bytes };
}

/** Return whether an address has its only form: no bit behind the prefix, no IPv4 address in IPv6's form. */
function isPlace(ipVersion, prefix, address) {
  const whole = { 4: 32, 6: 128 }[ipVersion];
  if (!whole || prefix < 1 || prefix > whole) return false;
  const isMapped = !address.slice(0, 10).some(Boolean) && address[10] === 255 && address[11] === 255;
  return !isMapped && address.every((byte, index) => !(byte & (255 >> Math.min(8, Math.max(0, prefix - 8 * index)))));
}

// --- Sending ---

/** Send a knock as a raw packet (Node only), and return its opened confirmation, or null if none came in time. */
export async function knockUdp(knock, host, port = 62201, waitMs = REPLY_WAIT_MS) {
  const { createSocket } = await import("node:dgram");
  const { lookup } = await import("node:dns/promises");
  const { address, family } = await lookup(host);
  const socket = createSocket(`udp${family}`);
  let timer;
  try {
    return await new Promise((resolve, reject) => {
      timer = setTimeout(resolve, waitMs, null);
      // A connected socket receives from this address and port alone. A port that is refused is as good as silent.
      socket.on("error", (error) => error.code === "ECONNREFUSED" || reject(error));
      socket.on("message", async (datagram) => {
        const reply = await openReply(knock.secret, datagram);
        if (reply !== null) resolve(reply);
      });
      socket.connect(port, address, () => socket.send(knock.packet));
    });
  } finally {
    clearTimeout(timer); // Node waits for it
    socket.close();
  }
}

/** Return the packet as the beginning of a STUN USERNAME: 254 letters. */
export function iceUsername(knock) {
  return toBase64(knock.packet).replace(/=+$/, "");
}

/** Return the password that proves in a STUN response that the server took this knock: 24 letters. */
export async function icePassword(knock) {
  return toBase64(await expand(knock.secret, joined("doorward ice 1"), 18));
}

/** Return the remote description that makes a browser send STUN frames with this name to these ports of an address. */
export function stunDescription(username, password, address, ports) {
  const lines = [
    "v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=group:BUNDLE 0",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:0",
    `a=ice-ufrag:${username}`, `a=ice-pwd:${password}`,
    `a=fingerprint:sha-256 ${Array(32).fill("00").join(":")}`,
    "a=setup:active", // otherwise the browser would send DTLS to the port
    "a=sctp-port:5000",
    ...ports.map((port, index) => `a=candidate:${index + 1} 1 udp ${2113937151 - index} ${address} ${port} typ host`),
  ];
  return { type: "answer", sdp: lines.map((line) => `${line}\r\n`).join("") };
}

/** Return whether a connection has sent a STUN frame. */
export async function hasSent(connection) {
  const pairs = [...(await connection.getStats()).values()].filter(({ type }) => type === "candidate-pair");
  const isWaiting = ({ state }) => state === "frozen" || state === "waiting";
  return pairs.some((pair) => (pair.requestsSent === undefined ? !isWaiting(pair) : pair.requestsSent > 0)); // Firefox does not count
}

/**
 * Send a knock in STUN frames (browsers only) to an address, not a name. It is repeated until the server answers.
 *
 * Returns "confirmed" (the server took it), "silent" (no answer in time, which is not a failure), or "blocked" (the
 * browser may not send).
 */
export async function knockStun(knock, address, ports, waitMs = STUN_WAIT_MS) {
  const connection = new RTCPeerConnection();
  let timer;
  try {
    connection.createDataChannel("");
    await connection.setLocalDescription(await connection.createOffer());
    const description = stunDescription(iceUsername(knock), await icePassword(knock), address, ports);
    return await new Promise((resolve, reject) => {
      timer = setTimeout(async () => resolve((await hasSent(connection)) ? "silent" : "blocked"), waitMs);
      connection.oniceconnectionstatechange = () => {
        if (["connected", "completed"].includes(connection.iceConnectionState)) resolve("confirmed");
      };
      connection.setRemoteDescription(description).catch(reject);
    });
  } finally {
    clearTimeout(timer);
    connection.close();
  }
}
