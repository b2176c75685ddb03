// Port sequences from a browser: one SYN or datagram per step. share_page.py puts this between doorward.mjs and page.mjs.

const TCP_PATIENCE_MS = 80, UDP_PATIENCE_MS = 1000; // a second SYN would come after 250 ms

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Send a door's sequence to each address, a packet per pause. */
async function sendSequence({ steps, pause }, addresses) {
  const toAddress = async (address) => {
    for (const [protocol, port] of steps) {
      await Promise.all([sleep(pause), protocol === "tcp" ? touchTcp(address, port) : touchUdp(address, port)]);
    }
  };
  await Promise.all(addresses.map(toAddress));
  return "silent";
}

/** Send one SYN: the connection is given up before the browser repeats it. */
async function touchTcp(address, port) {
  const place = `${address.includes(":") ? `[${address}]` : address}:${port}/`;
  if (navigator.userAgent.includes("Firefox")) {
    // It delays WebSockets to a server that did not answer.
    await fetch(`http://${place}`, { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(TCP_PATIENCE_MS) }).catch(() => null);
  } else {
    const socket = new WebSocket(`ws://${place}`); // Chromium goes on with a fetch that is aborted
    await sleep(TCP_PATIENCE_MS);
    socket.close();
  }
}

/** Send one datagram: the connection is closed as soon as it was sent, since the browser repeats it. */
async function touchUdp(address, port) {
  const connection = new RTCPeerConnection();
  try {
    connection.createDataChannel("");
    await connection.setLocalDescription(await connection.createOffer());
    await connection.setRemoteDescription(stunDescription("knock", "x".repeat(22), address, [port]));
    const end = Date.now() + UDP_PATIENCE_MS;
    while (!(await hasSent(connection)) && Date.now() < end) await sleep(4);
  } finally {
    connection.close();
  }
}
