// A proxy of RESP over TCP that loses, holds, repeats and stays silent. It cuts at whole commands of the client.

import { connect, createServer } from 'node:net';

/** The first whole command in these bytes, as an array of bulk texts: `[command, length]`. */
export function parse(bytes) {
  const lineEnd = (from) => bytes.indexOf('\r\n', from);
  if (!bytes.length) return;
  if (bytes[0] !== 42) throw new Error('not a command of RESP');
  let end = lineEnd(0);
  if (end < 0) return;
  const count = Number(bytes.subarray(1, end));
  let at = end + 2;
  const command = [];
  for (let i = 0; i < count; i++) {
    end = lineEnd(at);
    if (end < 0) return;
    const length = Number(bytes.subarray(at + 1, end));
    at = end + 2;
    if (bytes.length < at + length + 2) return;
    command.push(bytes.subarray(at, at + length).toString());
    at += length + 2;
  }
  command[0] = command[0].toUpperCase();
  return [command, at];
}

/**
 * Starts a proxy in front of `port`. `judge(command)` says what becomes of a command:
 * `pass` · `before`: the connection breaks, the command never arrives · `after`: the command runs, and the connection breaks
 * in place of the answer · `hold`: the connection breaks, and the command arrives at `release()`, on a connection of its own ·
 * `silent`: the command never arrives, and nothing is answered any more on this connection · `{ delay: ms }`: later.
 */
export async function startProxy(port) {
  const pairs = new Set();
  const held = [];
  const proxy = { judge: () => 'pass', seen: [], refuses: false, isDeaf: false };

  const server = createServer((client) => {
    if (proxy.refuses) return client.destroy();
    const upstream = connect({ port, host: '127.0.0.1' });
    const pair = { client, upstream };
    pairs.add(pair);
    let left = Buffer.alloc(0);
    let isSilent = false;
    let isCutAfter = false;
    let order = Promise.resolve();
    const cut = () => {
      pairs.delete(pair);
      client.destroy();
      upstream.destroy();
    };
    client.on('error', cut);
    upstream.on('error', cut);
    client.on('close', cut);
    upstream.on('close', cut);
    upstream.on('data', (answer) => {
      if (isCutAfter) return cut();
      if (!isSilent && !proxy.isDeaf) client.write(answer);
    });
    client.on('data', (bytes) => {
      left = Buffer.concat([left, bytes]);
      for (let found; (found = parse(left)); ) {
        const [command, length] = found;
        const raw = left.subarray(0, length);
        left = left.subarray(length);
        proxy.seen.push(command);
        if (isSilent || proxy.isDeaf) continue;
        const verdict = proxy.judge(command);
        if (verdict === 'before') return cut();
        if (verdict === 'hold') {
          held.push(raw);
          return cut();
        }
        if (verdict === 'silent') {
          isSilent = true;
          continue;
        }
        if (verdict === 'after') isCutAfter = true;
        const send = () => !upstream.destroyed && upstream.write(raw);
        order = verdict?.delay ? order.then(() => new Promise((go) => setTimeout(go, verdict.delay))).then(send) : order.then(send);
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

  return Object.assign(proxy, {
    port: server.address().port,
    held,
    /** What was held arrives now, and is answered to nobody. */
    async release() {
      for (const raw of held.splice(0)) {
        await new Promise((resolve, reject) => {
          const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(raw));
          socket.once('error', reject);
          socket.once('data', () => (socket.destroy(), resolve()));
        });
      }
    },
    /** Every connection breaks. */
    reset() {
      for (const { client, upstream } of [...pairs]) {
        client.destroy();
        upstream.destroy();
      }
    },
    async stop() {
      proxy.reset();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}
