// Locks: one holder, told when lost, closed when nobody knows.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { createLocks, LockError } from '../dist/index.js';
import { fromIoredis } from '../dist/ioredis.js';
import { clients, connect, startServer } from './parts/servers.mjs';
import { startProxy } from './parts/proxy.mjs';
import { gate, nothingIsUnhandled, sleep, timed, until } from './parts/waiting.mjs';

let server, proxy;
before(async () => (server = await startServer('valkey')));
after(() => server.stop());
beforeEach(async () => {
  await server.admin.flushall();
  proxy = await startProxy(server.port);
});
afterEach(() => proxy.stop());

nothingIsUnhandled();

function both(name, work) {
  for (const version of Object.keys(clients))
    test(`${name} (${version})`, { timeout: 60_000 }, async (t) => {
      const store = fromIoredis(connect(version, proxy.port, { maxRetriesPerRequest: 0 }));
      t.after(() => store.close());
      const events = [];
      const locks = createLocks({ store, on: (event) => events.push(event) });
      await work({ t, locks, store, events });
    });
}

const key = 'lock:a';
const gone = (lock) =>
  new Promise((resolve) =>
    lock.signal.aborted ? resolve() : lock.signal.addEventListener('abort', resolve, { once: true }),
  );

both('one holder; the fence grows, after a flush too', async ({ locks, events }) => {
  const first = await locks.acquire('a', { expireSeconds: 5 });
  assert.equal(await server.admin.get(key), first.token);
  const ttl = await server.admin.pttl(key);
  assert.ok(ttl > 3_000 && ttl <= 5_000);
  assert.equal(await locks.acquire('a'), null);
  assert.equal(first.held, true);
  assert.equal(await first.release(), true);
  assert.equal(await first.release(), false);
  assert.equal(first.held, false);
  let fence = first.fence;
  for (let i = 0; i < 5; i++) {
    const lock = await locks.acquire('a');
    assert.ok(Number.isSafeInteger(lock.fence) && lock.fence > fence);
    fence = lock.fence;
    if (i === 2) await server.admin.flushall();
    else await lock.release();
  }
  assert.deepEqual(events.slice(0, 3), [
    { type: 'acquired', name: 'a', seconds: 5 }, { type: 'busy', name: 'a' }, { type: 'released', name: 'a' },
  ]);
});

both('an expired lock is told, and frees nobody else\'s', async ({ locks }) => {
  const lock = await locks.acquire('a', { expireSeconds: 2, renew: false });
  await gone(lock);
  assert.ok((await server.admin.pttl(key)) > 0, 'the key still stands');
  assert.ok(lock.signal.reason instanceof LockError && lock.signal.reason.reason === 'lost');
  assert.equal(lock.held, false);
  assert.equal(await lock.extend(), false);
  await until(async () => !(await server.admin.exists(key)), 'the key expires');
  const next = await locks.acquire('a');
  assert.equal(await lock.release(), false);
  assert.equal(await server.admin.get(key), next.token);
  await next.release();
});

both('a lock renews itself, up to its limit', async ({ locks }) => {
  const lock = await locks.acquire('a', { expireSeconds: 0.3, maxSeconds: 1.2 });
  const { ms } = await timed(() => gone(lock));
  assert.ok(ms > 600, `${ms}`);
  assert.ok((await server.admin.pttl(key)) < 300);
  await until(async () => !(await server.admin.exists(key)), 'the key expires');
});

both('a lock that was taken away is told', async ({ locks, events }) => {
  const lock = await locks.acquire('a', { expireSeconds: 0.9 });
  await server.admin.set(key, 'thief');
  await gone(lock);
  assert.equal(await lock.release(), false);
  assert.equal(await server.admin.get(key), 'thief');
  assert.ok(events.some(({ type }) => type === 'lost'));
  await server.admin.del(key);
  // Nobody noticed before the end.
  const result = await locks.withLock('a', async () => {
    await server.admin.set(key, 'thief');
    return 'done';
  });
  assert.deepEqual([result.success, result.reason, result.data], [false, 'lost', 'done']);
});

both('waiters come in one after another', async ({ locks }) => {
  let inside = 0;
  const results = await Promise.all(
    Array.from({ length: 8 }, () =>
      locks.withLock('a', async () => {
        assert.equal(++inside, 1);
        await sleep(5);
        inside--;
        return 1;
      }, { retries: 500, delayMs: 10 }),
    ),
  );
  assert.ok(results.every(({ success }) => success));
  assert.deepEqual(Object.keys(results[0]).sort(), ['data', 'fence', 'success']);
});

both('a double click pays once', async ({ locks }) => {
  const hold = gate();
  const first = locks.withLock('a', () => hold.promise);
  await until(() => server.admin.exists(key), 'the first has it');
  const second = await locks.withLock('a', () => assert.fail());
  assert.deepEqual([second.success, second.reason, typeof second.error], [false, 'busy', 'string']);
  hold.open('paid');
  assert.equal((await first).data, 'paid');
  assert.equal(await server.admin.exists(key), 0);
});

both('what the work throws is said, and Next\'s control flow passes', async ({ locks }) => {
  const failed = await locks.withLock('a', () => Promise.reject(new Error('no funds')));
  assert.deepEqual([failed.success, failed.reason, failed.error, failed.cause.message], [false, 'failed', 'no funds', 'no funds']);
  const redirect = Object.assign(new Error('NEXT_REDIRECT'), { digest: 'NEXT_REDIRECT;push;/ok' });
  await assert.rejects(locks.withLock('a', () => { throw redirect; }), (error) => error === redirect);
  assert.equal(await server.admin.exists(key), 0);
});

both('no answer: closed, and freed later', async ({ locks, store }) => {
  proxy.isDeaf = true;
  let ran = false;
  const { value, ms } = await timed(() => locks.withLock('a', () => (ran = true)));
  assert.deepEqual([value.success, value.reason, ran], [false, 'unavailable', false]);
  assert.ok(ms < 4_000, `${ms}`);
  await assert.rejects(locks.acquire('a'), (error) => error instanceof LockError && error.reason === 'unavailable');
  proxy.isDeaf = false;
  proxy.reset();
  // Held back, the take arrives late; the release that is sent again frees the key long before its TTL.
  await until(async () => (await store.send('PING').catch(() => 0)) === 'PONG', 'connected');
  let isOver = false;
  proxy.judge = ([name]) => (name === 'EVAL' && !isOver ? ((isOver = true), 'hold') : 'pass');
  await assert.rejects(locks.acquire('a', { expireSeconds: 4 }), LockError);
  await proxy.release();
  await until(async () => !(await server.admin.exists(key)), 'it is freed');
  const none = createLocks({ store: null });
  assert.equal((await none.withLock('a', () => 1)).reason, 'unavailable');
});

both('a wait ends at once', async ({ locks }) => {
  await server.admin.set(key, 'other', 'PX', 60_000);
  const stop = new AbortController();
  const waiting = locks.acquire('a', { retries: 1_000, delayMs: 2_000, signal: stop.signal });
  await until(() => proxy.seen.some(([name]) => name === 'EVAL'), 'the first attempt');
  stop.abort();
  const { value, ms } = await timed(() => waiting);
  assert.equal(value, null);
  assert.ok(ms < 1_500, `${ms}`);
  assert.equal(await locks.acquire('a', { signal: AbortSignal.abort() }), null);
});

both('await using', async ({ locks }) => {
  const lock = await locks.acquire('a');
  await lock[Symbol.asyncDispose]();
  assert.equal(await server.admin.exists(key), 0);
});
