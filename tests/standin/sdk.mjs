// The real @upstash/redis, the real ioredis, and bare HTTP and RESP as documented, against the stand-in: it must speak as
// the real one does.
//
//   BACKEND=127.0.0.1:PORT SDK=DIR IOREDIS=DIR node tests/standin/sdk.mjs
//                                        each DIR holds node_modules, with @upstash/redis and with ioredis

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Reader, command } from './resp.mjs';

const part = (dir, name) => createRequire(path.resolve(dir, 'from.js'))(name);
const { Redis } = part(process.env.SDK, '@upstash/redis');
const { Redis: Ioredis } = part(process.env.IOREDIS, 'ioredis');
const here = path.dirname(fileURLToPath(import.meta.url));
const child = spawn(process.execPath, [path.join(here, 'upstash.mjs'), '--backend', process.env.BACKEND, '--token', 'tok', '--readonly-token', 'ro'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
const [line] = await once(child.stdout, 'data');
const ports = JSON.parse(line.toString());
test.after(() => child.kill());

const url = `http://127.0.0.1:${ports.rest}`;
const control = async (method, name, body) => {
  const answer = await fetch(`http://127.0.0.1:${ports.control}/${name}`, { method, body: body && JSON.stringify(body) });
  return answer.json();
};
const stats = () => control('GET', 'stats');
const raw = async (where, options = {}) => {
  const answer = await fetch(url + where, { ...options, headers: { authorization: 'Bearer tok', ...options.headers } });
  return { code: answer.status, bytes: Buffer.from(await answer.arrayBuffer()), headers: answer.headers };
};
const sdk = (options = {}) => new Redis({ url, token: 'tok', retry: { retries: 0 }, enableTelemetry: false, ...options });
const fresh = async () => {
  await control('POST', 'reset', {});
  await sdk().flushall();
  await control('POST', 'reset', {});
};

/** A session over TCP: each call is one command. */
async function session() {
  const socket = net.connect(ports.tcp, '127.0.0.1');
  const waiting = [];
  const reader = new Reader((value) => waiting.shift()?.(value));
  socket.on('data', (chunk) => reader.push(chunk));
  socket.on('error', () => {});
  const closed = once(socket, 'close').then(() => waiting.splice(0).forEach((done) => done({ error: 'closed' })));
  const send = (...args) => new Promise((done) => {
    waiting.push(done);
    socket.write(command(args.map((arg) => Buffer.from(arg))));
  });
  return { send, closed, end: () => socket.destroy() };
}

test('the SDK reads, writes, runs pipelines, transactions and scripts', async () => {
  await fresh();
  const redis = sdk();
  assert.equal(await redis.set('k', 'v', { ex: 100 }), 'OK');
  assert.equal(await redis.get('k'), 'v');
  assert.equal(await redis.get('none'), null);
  await redis.set('j', { a: [1, 'é'] });
  assert.deepEqual(await redis.mget('j', 'k', 'none'), [{ a: [1, 'é'] }, 'v', null]);
  assert.deepEqual(await redis.pipeline().set('a', 1).incr('a').unlink('a', 'b').exec(), ['OK', 2, 1]);
  assert.deepEqual(await redis.multi().set('a', 1).incr('a').get('none').exec(), ['OK', 2, null]);
  assert.equal(await redis.eval('return redis.call("GET", KEYS[1]) .. ARGV[1]', ['k'], ['!']), 'v!');
  assert.equal(await redis.eval('#!lua flags=allow-key-locking\nreturn 7', [], []), 7);
  assert.equal(await redis.eval('return nil', [], []), null);
  const sha = await redis.scriptLoad('return 1').catch(() => undefined);
  assert.equal(typeof sha, 'string');
  const [cursor, keys] = await redis.scan(0, { match: 'a*', count: 1000 });
  assert.deepEqual([String(cursor), keys], ['0', ['a']]);
  assert.equal(await redis.set('k', 'w', { nx: true, get: true }), 'v');
  assert.equal(await redis.exec(['SET', 'k', 'x', 'IFEQ', 'v']), 'OK');
  assert.equal(await redis.exec(['SET', 'k', 'y', 'IFEQ', 'v']), null);
  await assert.rejects(redis.incr('k'), /not an integer/);
  const [ok, failed] = await redis.pipeline().get('k').incr('k').exec({ keepErrors: true });
  assert.equal(ok.result, 'x');
  assert.match(failed.error, /not an integer/);
});

for (const protocol of [2, 3]) test(`ioredis reads, writes, runs pipelines, transactions and scripts over TCP, with RESP${protocol}`, async () => {
  await fresh();
  const options = { host: '127.0.0.1', port: ports.tcp, username: 'default', protocol, retryStrategy: () => null };
  const redis = new Ioredis({ ...options, password: 'tok' });
  assert.equal(await redis.set('k', 'v', 'EX', 100), 'OK');
  assert.equal((await redis.call('HELLO')).at(5), protocol);
  assert.equal(await redis.get('k'), 'v');
  assert.deepEqual(await redis.mget('k', 'none'), ['v', null]);
  assert.deepEqual(await redis.getBuffer('k'), Buffer.from('v'));
  assert.deepEqual(await redis.pipeline().set('a', 1).incr('a').unlink('a', 'b').exec(), [[null, 'OK'], [null, 2], [null, 1]]);
  const before = (await stats()).billed;
  assert.deepEqual(await redis.multi().set('a', 1).incr('a').exec(), [[null, 'OK'], [null, 2]]);
  assert.equal((await stats()).billed - before, 4, 'MULTI and EXEC over TCP');
  assert.equal(await redis.eval('return redis.call("GET", KEYS[1]) .. ARGV[1]', 1, 'k', '!'), 'v!');
  redis.defineCommand('twice', { numberOfKeys: 1, lua: 'return redis.call("GET", KEYS[1]) .. redis.call("GET", KEYS[1])' });
  assert.equal(await redis.twice('k'), 'vv');
  assert.deepEqual(await redis.scan(0, 'MATCH', 'a*', 'COUNT', 1000), ['0', ['a']]);
  assert.equal(await redis.call('SET', 'k', 'x', 'IFEQ', 'v'), 'OK');
  await assert.rejects(redis.incr('k'), /not an integer/);
  await assert.rejects(redis.hello(4), /NOPROTO/);
  assert.equal(await sdk().get('k'), 'x', 'both ways lead to one database');
  await redis.quit();
  const wrong = new Ioredis({ ...options, password: 'no', lazyConnect: true });
  const told = once(wrong, 'error');
  await assert.rejects(wrong.connect());
  assert.match(String((await told)[0]), /WRONGPASS/);
  wrong.disconnect();
});

test('codes, methods, tokens and forms are the documented ones', async () => {
  await fresh();
  assert.equal((await raw('/set/foo/bar%20b/EX/100')).bytes.toString(), '{"result":"OK"}');
  assert.equal((await raw('/get/foo')).bytes.toString(), '{"result":"bar b"}');
  assert.equal((await raw('/set/bin?EX=100', { method: 'POST', body: Buffer.from([0xff, 0x00]) })).code, 200);
  assert.equal((await raw('/get/bin', { headers: { 'upstash-encoding': 'base64' } })).bytes.toString(), '{"result":"/wA="}');
  assert.equal((await raw('/get/bin')).bytes.toString(), '{"result":"\ufffd\\u0000"}');
  assert.equal((await raw('/ttl/bin')).bytes.toString(), '{"result":100}');
  assert.equal((await raw('/set/ok/OK', { headers: { 'upstash-encoding': 'base64' } })).bytes.toString(), '{"result":"OK"}');
  assert.deepEqual((await raw('/get/bin', { headers: { 'upstash-response-format': 'resp2' } })).bytes, Buffer.from('$2\r\n\xff\x00\r\n', 'latin1'));
  assert.equal((await raw('/get/bin', { headers: { 'upstash-response-format': 'resp3' } })).code, 400);
  assert.equal((await raw('/get/bin', { headers: { 'upstash-response-format': 'resp2', 'upstash-encoding': 'base64' } })).code, 400);
  const unlink = await raw('/unlink', { method: 'POST', body: Buffer.from('bin') });
  assert.equal(unlink.bytes.toString(), '{"result":1}');
  assert.equal((await raw('/get/foo', { method: 'DELETE' })).code, 405);
  assert.equal((await raw('/get/foo', { method: 'HEAD' })).code, 200);
  assert.equal((await raw('/', { method: 'POST', body: '["GET"]' })).code, 400);
  assert.equal((await raw('/', { method: 'POST', body: 'GET foo' })).code, 400);
  assert.equal((await raw('/', { method: 'POST', body: '["SUBSCRIBE","x"]' })).code, 400);
  assert.equal((await raw('/get/foo', { headers: { authorization: 'Bearer no' } })).code, 401);
  assert.equal((await fetch(`${url}/get/foo`)).status, 401);
  assert.equal((await fetch(`${url}/get/foo?_token=tok`)).status, 200);
  assert.equal((await raw('/set/foo/x', { headers: { authorization: 'Bearer ro' } })).code, 400);
  const pipeline = await raw('/pipeline', { method: 'POST', body: '[["SET","a",1],["INCR","foo"],["INCR","a"]]' });
  assert.equal(pipeline.code, 200);
  assert.deepEqual(JSON.parse(pipeline.bytes).map((item) => Object.keys(item)[0]), ['result', 'error', 'result']);
  const transaction = await raw('/multi-exec', { method: 'POST', body: '[["SET","a",1],["INCR","foo"],["INCR","a"]]' });
  assert.deepEqual(JSON.parse(transaction.bytes)[2], { result: 2 });
  const discarded = await raw('/multi-exec', { method: 'POST', body: '[["SET","a",9],["SUBSCRIBE","x"]]' });
  assert.match(JSON.parse(discarded.bytes).error, /not available/);
  assert.equal((await raw('/get/a')).bytes.toString(), '{"result":"2"}');
  const long = 'k'.repeat(32 * 1024 + 1);
  assert.equal((await raw('/', { method: 'POST', body: JSON.stringify(['UNLINK', long]) })).code, 400);
  const large = await raw('/', { method: 'POST', body: JSON.stringify(['SET', 'l', 'x'.repeat(10 * 1024 * 1024)]) });
  assert.match(JSON.parse(large.bytes).error, /max request size/);
});

test('the bill is the documented one', async () => {
  await fresh();
  const redis = sdk();
  await redis.eval('redis.call("GET", KEYS[1]) redis.call("GET", KEYS[1]) return redis.call("INCR", KEYS[1])', ['n'], []);
  assert.equal((await stats()).billed, 4, 'EVAL and what it calls');
  await redis.pipeline().get('a').get('b').exec();
  await redis.multi().get('a').get('b').exec();
  assert.equal((await stats()).billed, 8);
  await redis.ping();
  await raw('/info');
  await raw('/unlink/a/b/c');
  assert.equal((await stats()).billed, 9, 'one UNLINK is one command');
  const client = await session();
  assert.equal((await client.send('GET', 'a')).error, 'NOAUTH Authentication required.');
  assert.match((await client.send('AUTH', 'default', 'no')).error, /^WRONGPASS/);
  assert.deepEqual(await client.send('AUTH', 'default', 'tok'), { status: 'OK' });
  const info = (await client.send('INFO')).toString();
  assert.ok(info.includes('upstash_version') && !info.includes('run_id') && !info.includes('Replication'));
  assert.match((await client.send('CLIENT', 'TRACKING', 'on')).error, /^ERR/);
  await client.send('SELECT', '0');
  await client.send('CLIENT', 'SETNAME', 'x');
  assert.equal((await stats()).billed, 9);
  await client.send('MULTI');
  await client.send('SET', 'a', '1');
  await client.send('INCR', 'a');
  assert.deepEqual(await client.send('EXEC'), [{ status: 'OK' }, 2]);
  assert.equal((await stats()).billed, 13, 'MULTI and EXEC over TCP');
  assert.deepEqual(await client.send('QUIT'), { status: 'OK' });
  await client.closed;
});

test('a replica lags, and what one wrote oneself is seen', async () => {
  await fresh();
  await sdk().set('k', 'old');
  await control('POST', 'lag', { ms: 60_000 });
  const [writer, other] = [sdk({ readYourWrites: true }), sdk({ readYourWrites: true })];
  await writer.set('k', 'new');
  assert.equal(await other.get('k'), 'old');
  assert.equal(await writer.get('k'), 'new');
  await writer.unlink('k');
  assert.equal(await other.get('k'), 'new', 'so far the replica is, and no further');
  assert.deepEqual(await other.scan(0), ['0', ['k']]);
  const tcp = await session();
  await tcp.send('AUTH', 'tok');
  assert.equal((await tcp.send('GET', 'k')).toString(), 'new');
  await tcp.send('SET', 'l', '1');
  assert.equal(await tcp.send('GET', 'k'), null);
  tcp.end();
  await control('POST', 'lag', { ms: 0 });
  assert.equal(await other.get('k'), null);
});

test('the last transactions can be lost, as one', async () => {
  await fresh();
  const redis = sdk();
  await redis.set('k', 'v');
  await redis.multi().unlink('k').set('mark', 1).exec();
  await redis.multi().set('other', 1).set('mark', 2).exec();
  assert.deepEqual(await control('POST', 'lose', { transactions: 1 }), { lost: 1 });
  assert.deepEqual(await redis.mget('k', 'mark', 'other'), [null, 1, null]);
  await control('POST', 'lose', { transactions: 1 });
  assert.deepEqual(await redis.mget('k', 'mark', 'other'), ['v', null, null]);
});

test('a change of the leader is one step: nobody sees half of it', async () => {
  await fresh();
  const writer = sdk();
  for (let value = 1; value <= 60; value += 1) await writer.multi().set('a', value).set('b', value).exec();
  let isOver = false;
  const readers = [1, 2, 3].map(async () => {
    const { send, end } = await session();
    await send('AUTH', 'tok');
    for (;;) {
      const isLast = isOver;
      await send('MULTI');
      await send('GET', 'a');
      await send('GET', 'b');
      const [a, b] = (await send('EXEC')).map(String);
      assert.equal(a, b);
      if (isLast) {
        end();
        return a;
      }
    }
  });
  const { lost } = await control('POST', 'lose', { transactions: 50 });
  isOver = true;
  assert.equal(lost, 50);
  assert.deepEqual(await Promise.all(readers), ['10', '10', '10']);
});

test('faults act on what they match, as often as they say', async () => {
  await fresh();
  const redis = sdk();
  await control('POST', 'fault', { match: { command: 'UNLINK' }, do: 'error', error: 'ERR nope', times: 1 });
  const items = await redis.pipeline().set('a', 1).unlink('a').get('a').exec({ keepErrors: true });
  assert.deepEqual(items.map((item) => item.error), [undefined, 'ERR nope', undefined]);
  assert.equal(items[2].result, 1);
  assert.equal(await redis.unlink('a'), 1);
  await redis.set('a', 1);
  await control('POST', 'fault', { match: { command: 'UNLINK' }, do: 'cut', when: 'before' });
  await control('POST', 'fault', { match: { command: 'UNLINK' }, do: 'cut', when: 'after', skip: 0 });
  await assert.rejects(redis.unlink('a'));
  assert.equal(await redis.get('a'), 1);
  await assert.rejects(redis.unlink('a'));
  assert.equal(await redis.get('a'), null);
  for (const code of [401, 429, 500, 503]) {
    await control('POST', 'fault', { do: 'status', code, error: 'ERR busy' });
    await assert.rejects(redis.get('a'), /busy/);
  }
  await control('POST', 'fault', { do: 'html' });
  await assert.rejects(redis.get('a'));
  await control('POST', 'fault', { do: 'truncate' });
  await assert.rejects(redis.get('a'));
  const { id } = await control('POST', 'fault', { match: { command: 'GET', key: 'h' }, do: 'hold', when: 'before', skip: 1 });
  await redis.get('held');
  const waits = redis.get('held');
  while ((await stats()).held === 0);
  assert.equal(await redis.get('a'), null, 'others go by');
  assert.deepEqual(await control('POST', 'release', { id }), { released: 1 });
  assert.equal(await waits, null);
  await control('POST', 'quota', { limit: 0 });
  await assert.rejects(redis.get('a'), /max requests limit exceeded\. Limit: 0, Usage: /);
  const [first] = await redis.pipeline().get('a').exec({ keepErrors: true });
  assert.match(first.error, /max requests limit/);
  await redis.ping();
  await control('POST', 'quota', {});
  assert.equal(await redis.get('a'), null);
});
