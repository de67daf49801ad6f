// Reads and locks over the real @upstash/redis, with the faults of the stand-in.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, beforeEach, test } from 'node:test';
import { createCache, createLocks } from '../dist/index.js';
import { fromUpstash } from '../dist/upstash.js';
import { freePort, startServer } from './parts/servers.mjs';
import { startRest } from './parts/rest.mjs';
import { nothingIsUnhandled, timed, until } from './parts/waiting.mjs';

let server, rest;
before(async () => {
  server = await startServer('valkey');
  rest = await startRest(server.port);
});
after(async () => {
  await rest.stop();
  await server.stop();
});
let events;
beforeEach(async () => {
  events = [];
  await rest.control('reset');
  await server.admin.flushall();
});

nothingIsUnhandled();

const store = (options = {}) => fromUpstash({ url: rest.url, token: rest.token, ...options });
const make = (options = {}) => createCache({ store: store(), on: (event) => events.push(event), ...options });

test('a miss stores, a hit answers the same, every text stays one', async () => {
  const cache = make();
  for (const value of [null, 0, '', '123', 'null', 'true', { a: ['é', '😀'] }, [1], '"x"']) {
    const key = JSON.stringify(value);
    assert.deepEqual(await cache.read(key, () => value), { value, from: 'miss' }, key);
    assert.equal(await server.admin.get(key), 'V' + JSON.stringify(value));
    assert.deepEqual(await cache.read(key, () => assert.fail()), { value, from: 'hit' });
  }
  assert.equal(await cache.invalidate(['null', '[1]']), true);
  assert.equal(await server.admin.exists('null', '[1]'), 0);
});

test('beside the key, and plain, the text is bare', async () => {
  for (const protocol of ['companion', 'plain']) {
    const cache = make({ protocol });
    assert.deepEqual(await cache.read(protocol, () => 123), { value: 123, from: 'miss' });
    assert.equal(await server.admin.get(protocol), '123');
    assert.deepEqual(await cache.read(protocol, () => assert.fail()), { value: 123, from: 'hit' });
  }
});

test('a hit is one command, a miss three, and the mark costs none', async () => {
  await server.admin.set('crieur:mark:main', JSON.stringify({ at: Date.now() / 1000, lsn: '0/1' }));
  for (const silence of [undefined, { slot: 'main', seconds: 60 }]) {
    const cache = make({ namespace: `${!!silence}`, ...(silence && { silence }) });
    await rest.control('reset');
    await cache.getOrSet('k', () => 1);
    assert.equal((await rest.get('stats')).requests.rest, 3);
    await cache.getOrSet('k', () => assert.fail());
    assert.equal((await rest.get('stats')).requests.rest, 4);
  }
});

test('a take that was given up on and arrives behind the delete stores nothing', async () => {
  const cache = make({ store: store({ timeout: 100 }) });
  const { id } = await rest.control('fault', { match: { command: 'SET' }, do: 'hold' });
  const read = await cache.read('k', async () => {
    await rest.control('release', { id });
    return 'old';
  });
  assert.deepEqual(read, { value: 'old', from: 'bypass' });
  await until(async () => (await rest.get('stats')).held === 0, 'the take arrived');
  assert.ok(!`${await server.admin.get('k')}`.startsWith('V'));
});

test('one request is sent, whatever becomes of it', async () => {
  for (const when of ['before', 'after']) {
    const cache = make();
    await rest.control('reset');
    await rest.control('fault', { match: { command: 'SET' }, do: 'cut', when, times: 0 });
    assert.deepEqual(await cache.read(`cut ${when}`, () => 1), { value: 1, from: 'bypass' });
    const sets = (await rest.get('log')).filter(({ commands }) => commands[0][0] === 'SET');
    assert.equal(sets.length, 1, when);
  }
});

test('401, 429, 500, HTML, half an answer, silence: the row, in bounded time, and no value in a message', async () => {
  const faults = [
    { do: 'status', code: 500, error: 'ERR internal' }, { do: 'status', code: 429, error: 'ERR too many' },
    { do: 'html', code: 200, body: '<html>portal</html>' }, { do: 'html', code: 502, body: '<html>bad</html>' },
    { do: 'truncate' }, { do: 'cut' }, { do: 'hold' }, { do: 'error', error: 'ERR of one item' },
  ];
  for (const fault of faults) {
    events = [];
    const cache = make();
    await rest.control('reset');
    await server.admin.set('k', 'V"sensitive"');
    await rest.control('fault', { ...fault, times: 0 });
    for (let i = 0; i < 3; i++) {
      const { value, ms } = await timed(() => cache.read('k', () => 'row'));
      assert.deepEqual(value, { value: 'row', from: 'bypass' }, fault.do);
      assert.ok(ms < 4_000, `${fault.do}: ${ms}`);
    }
    assert.ok(events.some(({ type }) => type === 'pause'), fault.do);
    assert.ok((await timed(() => cache.read('k', () => 1))).ms < 450);
    for (const { error } of events.filter(({ error }) => error))
      assert.doesNotMatch(`${error.message} ${error.cause ?? ''}`, /sensitive|secret-token|command was/, fault.do);
    await rest.control('release');
  }
});

test('a wrong token and a used-up plan pause at once, and long', async () => {
  const wrong = make({ store: store({ token: 'wrong' }) });
  await wrong.read('k', () => 1);
  assert.ok(events.find(({ type }) => type === 'pause').ms >= 30_000);
  events = [];
  await rest.control('quota', { limit: 0 });
  await make().read('k', () => 1);
  assert.ok(events.find(({ type }) => type === 'pause').ms >= 30_000);
  await rest.control('quota', { limit: null });
});

test('no server, no name: the row', async () => {
  for (const url of [`http://127.0.0.1:${await freePort()}`, 'http://no-such-host.invalid']) {
    const cache = make({ store: store({ url }) });
    const { value, ms } = await timed(() => cache.read('k', () => 1));
    assert.deepEqual(value, { value: 1, from: 'bypass' });
    assert.ok(ms < 4_000, `${url}: ${ms}`);
  }
});

test('a way that sends each request twice is closed by take: script', async () => {
  // Whatever comes in goes out twice; the copy of a take arrives behind the delete.
  let late;
  const doubling = createServer(async (request, answer) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
    const send = () =>
      fetch(rest.url, { method: 'POST', headers: { authorization: request.headers.authorization }, body });
    const [name] = JSON.parse(body);
    const isTake = name === 'SET' || body.includes('lease');
    if (isTake) late ??= send;
    const got = await send();
    answer.writeHead(got.status, { 'content-type': 'application/json' });
    answer.end(await got.text());
  });
  await new Promise((resolve) => doubling.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${doubling.address().port}`;
  const left = {};
  for (const take of ['once', 'script']) {
    late = undefined;
    const cache = make({ take, store: store({ url }) });
    await cache.read('k', async () => {
      await server.admin.unlink('k');
      await late();
      return 'old';
    });
    left[take] = `${await server.admin.get('k')}`.startsWith('V');
    await server.admin.unlink('k');
  }
  doubling.close();
  // The first shows that the way is as bad as that.
  assert.deepEqual(left, { once: true, script: false });
});

test('locks', async () => {
  const locks = createLocks({ store: store() });
  const lock = await locks.acquire('a');
  assert.equal(await server.admin.get('lock:a'), lock.token);
  assert.equal(await locks.acquire('a'), null);
  assert.equal(await lock.extend(20), true);
  assert.equal(await lock.release(), true);
  const result = await locks.withLock('a', ({ fence }) => fence);
  assert.ok(result.success && result.data === result.fence && result.fence > lock.fence);
});

test('the probe works over REST', async () => {
  const probe = await make().test();
  assert.ok(probe.ok, JSON.stringify(probe));
  assert.deepEqual(await server.admin.keys('*test*'), []);
});
