// Makes what the test asks for, from JSON on standard input to JSON on standard output.
import { readFileSync } from "node:fs";
import { webcrypto } from "node:crypto";
import * as doorward from "../../../clients/js/doorward.mjs";
import { encode } from "../../../src/doorward/page/qr.mjs";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const { fromHex } = doorward;

async function pairOf(key) {
  if (key.pkcs8 === undefined) return doorward.makeKeyPair();
  const algorithm = key.curve ? { name: "ECDSA", namedCurve: key.curve } : "Ed25519";
  const { subtle } = webcrypto;
  const privateKey = await subtle.importKey("pkcs8", fromHex(key.pkcs8), algorithm, false, ["sign"]);
  return { privateKey, publicKey: await subtle.importKey("raw", fromHex(key.raw), algorithm, true, ["verify"]) };
}

const commands = {
  async packet({ ephemeral, server, plaintext }) {
    return hex(await doorward.packetOf(fromHex(ephemeral), fromHex(server), fromHex(plaintext)));
  },
  async knock({ server, key, request }) {
    const signer = await doorward.signerOf(await pairOf(key));
    const bytes = Object.fromEntries(["nonce", "random"].filter((name) => name in request).map((name) => [name, fromHex(request[name])]));
    if (request.asked) bytes.asked = { ...request.asked, address: fromHex(request.asked.address) };
    const knock = await doorward.makeKnock({ ...request, ...bytes, serverKey: doorward.parseServerKey(server) }, signer);
    return {
      line: doorward.authorizedKeysLine(signer, "a phone"),
      packet: hex(knock.packet),
      body: hex(knock.body),
      secret: hex(knock.secret),
      username: doorward.iceUsername(knock),
      password: await doorward.icePassword(knock),
    };
  },
  async secret({ packet, plaintext }) {
    const secret = await doorward.replySecret(fromHex(packet), fromHex(plaintext));
    return { secret: hex(secret), password: await doorward.icePassword({ secret }) };
  },
  async open({ secret, datagram }) {
    const reply = await doorward.openReply(fromHex(secret), fromHex(datagram));
    return reply && { ...reply, address: hex(reply.address) };
  },
  async qr({ text, mask }) {
    return encode(text, { border: 0, maskPattern: mask }).data.map((row) => row.map(Number));
  },
  async send({ server, door, host, port, waitMs }) {
    const signer = await doorward.signerOf(await doorward.makeKeyPair());
    const knock = await doorward.makeKnock({ serverKey: doorward.parseServerKey(server), door }, signer);
    const reply = await doorward.knockUdp(knock, host, port, waitMs);
    return { line: doorward.authorizedKeysLine(signer, "node"), reply: reply && { ...reply, address: hex(reply.address) } };
  },
};

const results = [];
for (const [command, argument] of JSON.parse(readFileSync(0, "utf-8"))) results.push(await commands[command](argument));
console.log(JSON.stringify(results));
