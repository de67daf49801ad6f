// What clients and networks do wrong, over both versions of ioredis.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { createCache } from '../dist/index.js';
import { fromIoredis } from '../dist/ioredis.js';
import { connect, freePort, startServer } from './parts/servers.mjs';
import { startProxy } from './parts/proxy.mjs';
import { nothingIsUnhandled, sleep, timed, until } from './parts/waiting.mjs';

let server, proxy;
before(async () => (server = await startServer('valkey')));
after(() => server.stop());
beforeEach(async () => {
  await server.admin.flushall();
  proxy = await startProxy(server.port);
});
afterEach(() => proxy.stop());

nothingIsUnhandled();

/** Runs a test with both versions of the client. */
function both(name, work) {
  for (const version of ['ioredis5', 'ioredis6'])
    test(`${name} (${version})`, { timeout: 60_000 }, async (t) => {
      const events = [];
      const made = [];
      const make = (options = {}, clientOptions = {}, port = proxy.port) => {
        const client = 'store' in options ? undefined : connect(version, port, clientOptions);
        const store = client ? fromIoredis(client) : options.store;
        const cache = createCache({ on: (event) => events.push(event), ...options, store });
        made.push(cache);
        return Object.assign(cache, { client });
      };
      t.after(() => Promise.all(made.map((cache) => cache.close())));
      await work({ t, make, events, version });
    });
}

const isTake = ([name, , , condition]) => name === 'SET' && condition === 'NX';
const isScript = ([name]) => name === 'EVAL';
/** The n-th command of this kind gets the verdict; the others pass. */
const once = (kind, verdict) => {
  let isOver = false;
  return (command) => (!isOver && kind(command) ? ((isOver = true), verdict) : 'pass');
};

// The hole of READERS: the client sends the take again, and the first copy arrives behind the delete of the daemon.
for (const options of [{}, { maxRetriesPerRequest: 1 }, { maxRetriesPerRequest: 0 }, { enableOfflineQueue: false }])
  both(`a take that arrives late stores nothing: ${JSON.stringify(options)}`, async ({ make }) => {
    const cache = make({}, options);
    proxy.judge = once(isTake, 'hold');
    let row = 'old';
    const old = await cache.read('k', async () => {
      const read = row;
      // The change, its delete, and then the first copy.
      row = 'new';
      await server.admin.unlink('k');
      await proxy.release();
      return read;
    });
    assert.deepEqual(old, { value: 'old', from: 'bypass' });
    assert.ok(!`${await server.admin.get('k')}`.startsWith('V'), 'nothing is stored');
  });

both('a take that ran and whose answer was lost is no lease', async ({ make }) => {
  const cache = make();
  proxy.judge = once(isTake, 'after');
  assert.deepEqual(await cache.read('k', () => 'row'), { value: 'row', from: 'bypass' });
  assert.match(await server.admin.get('k'), /^L/);
  assert.ok((await server.admin.pttl('k')) > 0);
});

both('a store that is lost, or late, does no harm', async ({ make }) => {
  const cache = make();
  proxy.judge = once(isScript, 'hold');
  assert.deepEqual(await cache.read('k', () => 'old'), { value: 'old', from: 'miss' });
  await server.admin.unlink('k');
  await proxy.release();
  assert.equal(await server.admin.get('k'), null);
});

both('refused, silent, cut: the row, in bounded time, and a pause', async ({ make, events }) => {
  const nobody = await freePort();
  for (const kind of ['refused', 'silent', 'cut']) {
    events.length = 0;
    proxy.judge = () => (kind === 'cut' ? 'before' : 'pass');
    proxy.isDeaf = kind === 'silent';
    const cache = make({}, {}, kind === 'refused' ? nobody : proxy.port);
    for (let i = 0; !events.some(({ type }) => type === 'pause'); i++) {
      assert.ok(i < 20, 'a pause comes');
      const { value, ms } = await timed(() => cache.read('k', () => i));
      assert.deepEqual(value, { value: i, from: 'bypass' });
      assert.ok(ms < 4_000, `${kind}: ${ms}`);
    }
    const pause = events.find(({ type }) => type === 'pause');
    assert.equal(pause.ms, 2_000);
    const sent = proxy.seen.length;
    const { ms } = await timed(() => cache.read('k', () => 1));
    assert.ok(ms < 450, `nothing is waited for in a pause: ${ms}`);
    if (kind === 'silent') assert.equal(proxy.seen.length, sent);
    await cache.close();
  }
});

both('the cache recovers by itself', async ({ make, events }) => {
  const cache = make({ pauseMs: 100 });
  proxy.isDeaf = true;
  await until(async () => {
    await cache.read('k', () => 1);
    return events.some(({ type }) => type === 'pause');
  }, 'a pause');
  proxy.isDeaf = false;
  proxy.reset();
  await until(async () => (await cache.read('k', () => 1)).from === 'hit', 'a hit');
  assert.ok(events.some(({ type }) => type === 'resume'));
});

both('one reset with five reads under way is one loss', async ({ make, events }) => {
  const cache = make({ pauseAfter: 2 });
  await cache.read('warm', () => 1);
  proxy.judge = () => 'silent';
  const reads = Array.from({ length: 5 }, (_, i) => cache.read(`k${i}`, () => 1));
  await until(() => proxy.seen.filter(([name]) => name === 'GET').length >= 6, 'five looks');
  proxy.judge = () => 'pass';
  proxy.reset();
  for (const { from } of await Promise.all(reads)) assert.equal(from, 'bypass');
  assert.ok(events.filter(({ type }) => type === 'error').length >= 5);
  assert.ok(!events.some(({ type }) => type === 'pause'));
});

both('a wrong password pauses at the first failure', async ({ make, events, t }) => {
  const locked = await startServer('valkey', { password: 'right' });
  t.after(() => locked.stop());
  const cache = make({}, { password: 'wrong' }, locked.port);
  await until(async () => {
    await cache.read('k', () => 1);
    return events.some(({ type }) => type === 'pause');
  }, 'a pause');
  assert.ok(events.find(({ type }) => type === 'pause').ms >= 30_000);
});

both('any client of the user\'s', async ({ make }) => {
  const options = [
    { lazyConnect: true }, { enableOfflineQueue: false }, { enableAutoPipelining: true }, { maxRetriesPerRequest: null },
    { maxRetriesPerRequest: 0 }, { protocol: 2 }, { stringNumbers: true }, { enableReadyCheck: false }, { db: 3 },
    { autoResendUnfulfilledCommands: false }, { retryStrategy: null }, { commandTimeout: 100 },
  ];
  for (const [i, clientOptions] of options.entries()) {
    const said = JSON.stringify(clientOptions);
    const cache = make({}, clientOptions);
    assert.deepEqual(await cache.read(`k${i}`, () => i), { value: i, from: 'miss' }, said);
    assert.deepEqual(await cache.read(`k${i}`, () => 0), { value: i, from: 'hit' }, said);
    assert.equal(cache.stats().stored, 1, said);
  }
});

both('a prefix is refused, and plain with a client that sends again', async ({ make }) => {
  assert.throws(() => make({}, { keyPrefix: 'app:', lazyConnect: true }), /keyPrefix/);
  assert.throws(() => make({ protocol: 'plain' }, { lazyConnect: true }), TypeError);
  make({ protocol: 'plain' }, { lazyConnect: true, maxRetriesPerRequest: 0 });
});

both('no listener is added by a call', async ({ make }) => {
  const cache = make({}, { lazyConnect: true });
  const count = () => cache.client.eventNames().reduce((sum, name) => sum + cache.client.listenerCount(name), 0);
  const before = count();
  await Promise.all(Array.from({ length: 50 }, (_, i) => cache.read(`k${i}`, () => i)));
  assert.ok(count() <= before, `${count()} of ${before}`);
});

both('without the cache few rows are read, and none that is older than the call', async ({ make }) => {
  const cache = make({ store: null });
  let runs = 0;
  const fetcher = async () => {
    const mine = ++runs;
    await sleep(60);
    return mine;
  };
  const burst = await Promise.all(Array.from({ length: 20 }, () => cache.read('k', fetcher)));
  assert.equal(runs, 1);
  assert.ok(burst.every(({ value, from }) => value === 1 && from === 'bypass'));
  const first = cache.read('k', fetcher);
  await until(() => runs === 2, 'the second fetch has begun');
  const later = await Promise.all(Array.from({ length: 10 }, () => cache.read('k', fetcher)));
  assert.equal((await first).value, 2);
  assert.ok(later.every(({ value }) => value === 3));
  assert.equal(runs, 3);
});

both('share: false uses no promise of another call', async ({ make }) => {
  const none = make({ store: null, share: false });
  let runs = 0;
  await Promise.all(Array.from({ length: 5 }, () => none.read('k', async () => ++runs)));
  assert.equal(runs, 5);
  const cache = make({ share: false });
  runs = 0;
  const reads = await Promise.all(Array.from({ length: 5 }, () => cache.read('s', async () => ++runs)));
  assert.equal(runs, 1);
  assert.ok(reads.every(({ from }) => from === 'miss' || from === 'hit'));
});

both('a framework\'s own errors pass, those of the store too', async ({ make, events }) => {
  const digest = Object.assign(new Error('dynamic'), { digest: 'DYNAMIC_SERVER_USAGE' });
  const cache = make({ store: { send: () => Promise.reject(digest) } });
  await assert.rejects(cache.read('k', () => assert.fail()), (error) => error === digest);
  assert.equal(cache.stats().errors, 0);
  assert.deepEqual(events, []);
});

test('the bound holds in a process that does nothing else, and a closed cache holds none open', async () => {
  const script = `
    import Redis from 'ioredis';
    import { createCache } from '${new URL('../dist/index.js', import.meta.url)}';
    import { fromIoredis } from '${new URL('../dist/ioredis.js', import.meta.url)}';
    const cache = createCache({ store: fromIoredis(new Redis(${proxy.port}, '127.0.0.1')) });
    console.log((await cache.read('k', () => 'row')).from);
    await cache.close();`;
  for (const isDeaf of [false, true]) {
    proxy.isDeaf = isDeaf;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: new URL('..', import.meta.url) });
    let out = '';
    child.stdout.on('data', (text) => (out += text));
    child.stderr.on('data', (text) => (out += text));
    const code = await new Promise((resolve) => child.once('exit', resolve));
    assert.deepEqual([out.trim(), code], [isDeaf ? 'bypass' : 'miss', 0]);
  }
});
