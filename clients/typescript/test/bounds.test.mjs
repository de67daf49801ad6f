// What a call may take from another, how long it waits for it, and what is left behind: over a store in memory.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { createCache, createLocks } from '../dist/index.js';
import { fromIoredis } from '../dist/ioredis.js';
import { GIVE_BACK, LOCK_RENEW, STORE_IN_KEY } from '../dist/lua.js';
import { environment } from '../dist/env-core.js';
import { memory } from './parts/memory.mjs';
import { gate, nothingIsUnhandled, timed, until } from './parts/waiting.mjs';

nothingIsUnhandled();
const run = promisify(execFile);
const never = () => new Promise(() => {});
const isStore = ([, script]) => script === STORE_IN_KEY;

test('a fetch has no-store and a signal, whatever its init leaves open', async (t) => {
  const got = [];
  t.mock.method(globalThis, 'fetch', async (input, init) => got.push(init));
  const mine = AbortSignal.timeout(60_000);
  const request = new Request('http://localhost/', { signal: mine });
  const inits = [undefined, {}, { signal: undefined, cache: undefined }, { signal: null }, { signal: mine, cache: 'reload', method: 'POST' }];
  const cache = createCache({ store: null });
  await cache.getOrSet('k', async ({ fetch, signal }) => {
    assert.ok(signal instanceof AbortSignal);
    for (const init of inits) await fetch('http://localhost/', init);
    await fetch(request, { signal: undefined });
  });
  for (const { signal } of got) assert.ok(signal instanceof AbortSignal);
  assert.deepEqual(got.map(({ cache }) => cache), ['no-store', 'no-store', 'no-store', 'no-store', 'reload', 'no-store']);
  assert.equal(got[4].signal, mine);
  assert.equal(got[4].method, 'POST');
  assert.equal(got[5].signal, request.signal);
});

test('a store that was closed opens no other client', async (t) => {
  process.env.REDIS_URL = 'redis://localhost';
  t.after(() => delete process.env.REDIS_URL);
  let opened = 0;
  let closed = 0;
  const { acquireLock, closeCache, getOrSetCache } = environment(
    () => async () => ({ ...memory(), opened: opened++, close: async () => void closed++ }),
    () => '',
  );
  const lock = await acquireLock('a');
  const hold = gate();
  const begun = gate();
  const read = getOrSetCache('k', () => (begun.open(), hold.promise));
  await begun.promise;
  await closeCache();
  hold.open('row');
  assert.equal(await read, 'row');
  assert.equal(await lock.release(), false);
  assert.deepEqual([opened, closed], [1, 1]);
  await getOrSetCache('k', () => 1);
  await closeCache();
  assert.deepEqual([opened, closed], [2, 2]);
});

test('a fetch that hangs holds up others for the time of a lease', async () => {
  for (const store of [null, memory()]) {
    const cache = createCache({ store, leaseMs: 200, waitMs: 50 });
    cache.getOrSet('k', never);
    const { value, ms } = await timed(() => Promise.all(Array.from({ length: 10 }, () => cache.getOrSet('k', () => 'own'))));
    assert.deepEqual(new Set(value), new Set(['own']));
    assert.ok(ms < 2_000, `${ms}`);
  }
});

test('without the cache, a fetch that fails is followed by one', async () => {
  const cache = createCache({ store: null });
  let runs = 0;
  let most = 0;
  let now = 0;
  const read = () =>
    cache.getOrSet('k', async () => {
      most = Math.max(most, ++now);
      const number = ++runs;
      await new Promise((go) => setTimeout(go, 5));
      now--;
      if (number === 1) throw new Error('down');
      return number;
    });
  const all = await Promise.allSettled(Array.from({ length: 50 }, read));
  assert.equal(all.filter(({ status }) => status === 'rejected').length, 1);
  assert.deepEqual([runs, most], [2, 1]);
});

test('a copy for grace stands only behind a store', async () => {
  for (const [refused, judge] of [[true, (command) => (isStore(command) ? 0 : undefined)], [true, async (command) => {
    if (isStore(command)) throw new Error('lost');
  }], [false, undefined]]) {
    const store = memory(judge);
    await createCache({ store }).getOrSet('k', () => 1, { grace: 10 });
    assert.equal(store.held.has('grace:{k}'), !refused);
  }
});

test('a copy for grace costs no time beyond that of a call', async () => {
  const store = Object.assign(memory(([, script]) => (script === GIVE_BACK || script === 'grace:{k}' ? never() : undefined)), { timeout: 100 });
  const down = () => Promise.reject(new Error('down'));
  const { ms } = await timed(() => assert.rejects(createCache({ store }).getOrSet('k', down, { grace: 10 }), /down/));
  assert.ok(ms < 2_000, `${ms}`);
  const kept = memory();
  const cache = createCache({ store: kept, waitMs: 1 });
  await cache.getOrSet('k', () => 1, { grace: 10 });
  for (const found of [undefined, 'foreign', 'Lother']) {
    if (found) kept.held.set('k', found);
    else kept.held.delete('k');
    assert.equal((await cache.read('k', down, { grace: 10 })).from, 'grace', found);
  }
});

test('storeIf without an answer stores nothing', async () => {
  const store = memory();
  assert.equal(await createCache({ store }).getOrSet('k', () => 1, { storeIf: () => {} }), 1);
  assert.equal(store.held.has('k'), false);
});

test('the probe ends with its answer', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const hold = gate();
  const store = memory(([name]) => (name === 'GET' ? hold.promise : undefined));
  const probing = createCache({ store }).test();
  await new Promise(setImmediate);
  t.mock.timers.tick(5_000);
  const probe = await probing;
  const { length } = store.sent;
  assert.equal(store.sent.at(-1)[0], 'DEL');
  assert.deepEqual(probe.steps.map(({ ok }) => ok), [true, true, false]);
  assert.match(probe.steps[2].error, /5 s/);
  assert.equal(probe.ok, false);
  hold.open('late');
  await new Promise(setImmediate);
  assert.deepEqual([probe.steps.length, store.sent.length], [3, length]);
});

test('calls share no promise on Cloudflare Workers, unless told to', async (t) => {
  const runs = async (options) => {
    let count = 0;
    await Promise.all(Array.from({ length: 5 }, () => createdBy(options).read('k', async () => ++count)));
    return count;
  };
  const made = new Map();
  const createdBy = (options) => made.get(options) ?? made.set(options, createCache({ store: null, ...options })).get(options);
  assert.equal(await runs({}), 1);
  const real = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  t.after(() => (real ? Object.defineProperty(globalThis, 'navigator', real) : delete globalThis.navigator));
  Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Cloudflare-Workers' }, configurable: true });
  assert.equal(await runs({}), 5);
  assert.equal(await runs({ share: true }), 1);
});

test('a pause of more than a minute is not shortened by a refusal', async () => {
  const events = [];
  const store = { send: () => Promise.reject(new Error('WRONGPASS no')) };
  await createCache({ store, pauseMs: 90_000, on: (event) => events.push(event) }).getOrSet('k', () => 1);
  assert.equal(events.find(({ type }) => type === 'pause').ms, 90_000);
});

test('what is wrong is said with the way out', async () => {
  const ttls = { list: 1 };
  await assert.rejects(createCache({ store: null, ttls }).getOrSet('k', () => 1, { ttl: 'lost' }), {
    message: 'ttl lost: no name in ttls, no positive number',
  });
  assert.throws(() => createCache({ store: { ...memory(), resends: true }, protocol: 'plain' }), {
    message: 'plain: the client may send twice: set maxRetriesPerRequest: 0',
  });
  const client = (more) => ({ options: {}, status: 'wait', on() {}, ...more });
  assert.throws(() => fromIoredis(client({ options: { keyPrefix: 'a:' } })), /keyPrefix/);
  assert.throws(() => fromIoredis(client({ isCluster: true })), /Cluster/);
  assert.match((await createCache({ store: null }).test()).steps[0].error, /there is no cache/);
});

test('a shorter time renews sooner', async () => {
  const store = memory();
  const lock = await createLocks({ store }).acquire('a', { expireSeconds: 200 });
  const renewals = () => store.sent.filter(([, script]) => script === LOCK_RENEW).length;
  assert.equal(await lock.extend(0.3), true);
  await until(() => renewals() >= 3, 'it renews itself');
  assert.ok(lock.held);
  await lock.release();
});

test('a lock for longer than a timer can be set stays', async () => {
  const month = 31 * 24 * 3600;
  const lock = await createLocks({ store: memory() }).acquire('a', { expireSeconds: month, maxSeconds: 2 * month, renew: false });
  await new Promise((go) => setTimeout(go, 20));
  assert.ok(lock.held);
  assert.equal(await lock.extend(month), true);
  await new Promise((go) => setTimeout(go, 20));
  assert.ok(lock.held);
  await lock.release();
});

test('a wait that was given up on keeps no process', async () => {
  const script = `
    import { createLocks } from '${new URL('../dist/index.js', import.meta.url)}';
    Math.random = () => 1;
    const stop = new AbortController();
    const store = { send: async () => [0, 60_000] };
    const waiting = createLocks({ store }).acquire('a', { retries: 9, delayMs: 2_000, signal: stop.signal });
    await new Promise(setImmediate);
    const start = performance.now();
    stop.abort();
    await waiting;
    process.on('exit', () => console.log(performance.now() - start));`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script]);
  assert.ok(Number(stdout) < 1_500, stdout);
});
