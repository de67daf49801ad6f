// RESP2: bytes into values, values into bytes, and one connection to a real server. No dependencies.
//
// A value is: null, a number, a Buffer (bulk string), { status } (simple string), { error }, or an array of values.

import net from 'node:net';

/** One array of bulk strings, as clients send commands. */
export function command(args) {
  const parts = [Buffer.from(`*${args.length}\r\n`)];
  for (const arg of args) parts.push(Buffer.from(`$${arg.length}\r\n`), arg, Buffer.from('\r\n'));
  return Buffer.concat(parts);
}

/** A reply, as servers send it. */
export function reply(value, protocol = 2) {
  if (value === null) return Buffer.from(protocol === 3 ? '_\r\n' : '$-1\r\n');
  if (typeof value === 'number') return Buffer.from(`:${value}\r\n`);
  if (Buffer.isBuffer(value)) return Buffer.concat([Buffer.from(`$${value.length}\r\n`), value, Buffer.from('\r\n')]);
  const all = (values) => values.map((one) => reply(one, protocol));
  if (Array.isArray(value)) return Buffer.concat([Buffer.from(`*${value.length}\r\n`), ...all(value)]);
  if (value.map !== undefined) {
    const head = protocol === 3 ? `%${value.map.length}` : `*${2 * value.map.length}`;
    return Buffer.concat([Buffer.from(`${head}\r\n`), ...all(value.map.flat())]);
  }
  if (value.error !== undefined) return Buffer.from(`-${value.error}\r\n`);
  return Buffer.from(`+${value.status}\r\n`);
}

/** Collects bytes and gives whole values to `each`; throws at bytes that are no RESP. */
export class Reader {
  constructor(each) {
    this.each = each;
    this.chunks = [];
    this.length = 0;
    this.wanted = 0;
  }

  push(chunk) {
    this.chunks.push(chunk);
    this.length += chunk.length;
    if (this.length < this.wanted) return;
    let bytes = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks);
    let at = 0;
    this.wanted = 0;
    for (;;) {
      const read = this.value(bytes, at);
      if (read === undefined) break;
      at = read[1];
      this.each(read[0]);
    }
    bytes = bytes.subarray(at);
    this.chunks = bytes.length > 0 ? [bytes] : [];
    this.length = bytes.length;
    this.wanted = Math.max(0, this.wanted - at);
  }

  line(bytes, at) {
    const end = bytes.indexOf('\r\n', at);
    return end < 0 ? undefined : [bytes.toString('latin1', at, end), end + 2];
  }

  /** [value, where the next begins], or undefined where bytes are missing. */
  value(bytes, at) {
    if (at >= bytes.length) return undefined;
    const line = this.line(bytes, at + 1);
    if (line === undefined) return undefined;
    const [text, next] = line;
    switch (bytes[at]) {
      case 43: // +
        return [{ status: text }, next];
      case 45: // -
        return [{ error: Buffer.from(text, 'latin1').toString() }, next];
      case 58: // :
        return [Number(text), next];
      case 36: { // $
        const length = Number(text);
        if (length < 0) return [null, next];
        if (bytes.length < next + length + 2) {
          this.wanted = next + length + 2;
          return undefined;
        }
        return [Buffer.from(bytes.subarray(next, next + length)), next + length + 2];
      }
      case 42: { // *
        const length = Number(text);
        if (length < 0) return [null, next];
        const values = [];
        let from = next;
        for (let i = 0; i < length; i += 1) {
          const read = this.value(bytes, from);
          if (read === undefined) return undefined;
          values.push(read[0]);
          from = read[1];
        }
        return [values, from];
      }
      default: {
        // An inline command: words on one line.
        const whole = this.line(bytes, at);
        if (whole === undefined) return undefined;
        return [whole[0].split(' ').filter(Boolean).map((word) => Buffer.from(word)), whole[1]];
      }
    }
  }
}

/** A connection to the real server. Commands are executed in the order of the calls. */
export class Backend {
  constructor(host, port, database) {
    this.waiting = [];
    this.socket = net.connect({ host, port, noDelay: true });
    const reader = new Reader((value) => this.waiting.shift()(value));
    this.socket.on('data', (chunk) => reader.push(chunk));
    this.socket.on('error', (error) => this.lost(error.message));
    this.socket.on('close', () => this.lost('closed'));
    this.ready = this.send(['SELECT', String(database)]);
  }

  lost(why) {
    console.error(`the server behind the stand-in is gone: ${why}`);
    process.exit(70);
  }

  /** The reply to one command; errors are values. */
  send(args) {
    return new Promise((done) => {
      this.waiting.push(done);
      this.socket.write(command(args.map((arg) => (Buffer.isBuffer(arg) ? arg : Buffer.from(String(arg))))));
    });
  }
}
