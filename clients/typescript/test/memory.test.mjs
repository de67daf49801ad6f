// The tier in memory, on a real server, with a publisher that does what a daemon with `publish` does.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { createMemoryCache } from '../dist/memory.js';
import { fromIoredis } from '../dist/ioredis.js';
import { publisher } from './parts/publisher.mjs';
import { connect, startServer } from './parts/servers.mjs';
import { gate, nothingIsUnhandled, sleep, until } from './parts/waiting.mjs';

nothingIsUnhandled();

let server, daemon, events, sent;
const open = [];
before(async () => {
  server = await startServer('valkey');
});
after(() => server.stop());
beforeEach(async () => {
  await server.admin.flushall();
  events = [];
  sent = [];
  daemon = publisher(server.admin);
});
afterEach(async () => {
  await daemon.stop();
  for (const cache of open.splice(0)) await cache.close();
});

/** A cache, with its own connections. `wrap` changes what its store does. */
function make({ version = 'ioredis6', wrap = (store) => store, listen = (subscriber) => subscriber, memory = {}, ...options } = {}) {
  const store = fromIoredis(connect(version, server.port, { maxRetriesPerRequest: 0 }));
  const counted = { ...store, send: (...command) => (sent.push(command), store.send(...command)) };
  const cache = createMemoryCache({
    store: wrap(counted),
    ttls: { list: 300 },
    on: (event) => events.push(event),
    memory: { subscriber: listen(connect(version, server.port, { retryStrategy: () => 20 })), slot: 'crieur', boundMs: 2_000, ...memory },
    ...options,
  });
  open.push(cache);
  return cache;
}
const isLive = (cache) => until(() => cache.memory().live, 'the tier is live');
const never = () => assert.fail('fetched');
const flushes = () => events.filter(({ type }) => type === 'flush').map(({ why }) => why);
const from = async (cache, key, fetcher = () => 'row') => (await cache.read(key, fetcher)).from;
/** The key is in memory. */
async function isKept(cache, key, value = 'row') {
  await isLive(cache);
  await until(async () => (await from(cache, key, () => value)) === 'memory', `${key} is in memory`);
}
/** The tier has forgotten the key, and the read goes to the cache. */
const isForgotten = (cache, key) => until(async () => (await from(cache, key)) !== 'memory', `${key} is forgotten`);
const gets = () => sent.filter(([name, key]) => !(name === 'GET' && key.startsWith('crieur:mark:'))).length;

for (const version of ['ioredis5', 'ioredis6'])
  test(`${version}: a hit in memory asks nobody, and a delete that is heard ends it`, async () => {
    const cache = make({ version });
    assert.equal(await from(cache, 'k'), 'miss');
    await isKept(cache, 'k');
    const before = gets();
    assert.deepEqual(await cache.read('k', never), { value: 'row', from: 'memory' });
    assert.equal(await cache.getOrSet('k', never), 'row');
    assert.equal(gets(), before);
    await daemon.delete('other', 'k');
    await until(async () => (await cache.read('k', () => 'new')).value === 'new', 'the new row');
    assert.ok(cache.memory().hits >= 2);
    assert.match(cache.metrics(), /crieur_cache_memory_hits_total \d/);
  });

test('without a message, and without a mark, nothing is kept', async () => {
  await daemon.pause();
  await server.admin.flushall();
  const cache = make();
  for (let i = 0; i < 20; i++) assert.notEqual((await from(cache, 'k')), 'memory');
  await daemon.beat();
  await until(() => sent.some(([, key]) => key === 'crieur:mark:crieur'), 'the mark is looked at');
  await daemon.unmark();
  const looks = () => sent.filter(([, key]) => key === 'crieur:mark:crieur').length;
  const before = looks();
  await until(async () => (await daemon.say(), looks() >= before + 2), 'the mark is looked at again');
  assert.equal(cache.memory().live, false);
  assert.notEqual(await from(cache, 'k'), 'memory');
});

test('a key that the cache did not hold any more is heard of, too', async () => {
  const cache = make();
  await isKept(cache, 'k');
  await server.admin.del('k'); // Evicted.
  assert.equal(await from(cache, 'k'), 'memory');
  await daemon.delete('k');
  await isForgotten(cache, 'k');
});

const FLUSHES = {
  number: () => daemon.lose(),
  epoch: () => daemon.restart(),
  flush: () => daemon.say({ flush: true }),
  unreadable: () => daemon.raw('{"v":2}'),
  connection: () => server.admin.client('KILL', 'TYPE', 'pubsub'),
  mark: () => daemon.mark({ epoch: 'another', n: 1 }).then(() => daemon.pause()),
};
for (const [why, cause] of Object.entries(FLUSHES))
  test(`everything is forgotten: ${why}`, async () => {
    const cache = make();
    await isKept(cache, 'a');
    await isKept(cache, 'b');
    const before = flushes().length;
    await cause();
    await until(() => flushes().slice(before).includes(why), why);
    assert.equal(cache.memory().entries, 0);
    daemon.resume();
    // It comes back by itself.
    await isKept(cache, 'a');
  });

test('while a daemon forbids it, nothing is kept, whatever else it says', async () => {
  const cache = make();
  await isKept(cache, 'k');
  await daemon.pause();
  await daemon.say({ flush: true });
  await until(() => flushes().includes('flush'), 'it is heard');
  for (let i = 0; i < 20; i++) {
    await daemon.say({ flush: true, keys: ['x'] });
    assert.notEqual(await from(cache, 'k'), 'memory');
  }
  await daemon.say();
  daemon.resume();
  await isKept(cache, 'k');
});

test('a daemon that is silent: the last hit in memory is no later than the bound', async () => {
  const boundMs = 500;
  const cache = make({ memory: { boundMs } });
  await isKept(cache, 'k');
  await daemon.pause();
  const silent = performance.now();
  let last = 0;
  await until(async () => {
    const begun = performance.now();
    if ((await from(cache, 'k')) === 'memory') last = begun;
    return performance.now() - silent > 2 * boundMs;
  }, 'twice the bound');
  assert.ok(last - silent <= boundMs, `${last - silent} ms behind the last message`);
  assert.ok(flushes().includes('silence'));
  assert.equal(cache.memory().entries, 0);
  daemon.resume();
  await isKept(cache, 'k');
});

test('a mark that is not written any more, or names what was not heard, or is none of a daemon that publishes', async () => {
  const cache = make({ memory: { boundMs: 600 } });
  const says = setInterval(() => daemon.say(), 30);
  try {
    await isKept(cache, 'k');
    await daemon.pause(); // Messages come on, the mark stays as it is.
    await until(() => flushes().includes('mark'), 'an old mark');
    for (const spoil of [() => daemon.mark({ ...daemon.last(), n: daemon.last().n + 1_000_000 }), () => daemon.mark(null), () => daemon.unmark()]) {
      daemon.resume();
      await isKept(cache, 'k');
      await daemon.pause();
      const before = flushes().length;
      // Each time with another nonce: such a mark is not old.
      await until(async () => (await spoil(), flushes().slice(before).includes('mark')), `${spoil}`);
      assert.notEqual(await from(cache, 'k'), 'memory');
    }
  } finally {
    clearInterval(says);
  }
});

test('a delete between the read of the cache and the store into memory is not overtaken', async () => {
  let hold;
  const cache = make({
    wrap: (store) => ({
      ...store,
      async send(...command) {
        const reply = await store.send(...command);
        if (command[1] === 'k' && hold) await hold.promise;
        return reply;
      },
    }),
  });
  assert.equal(await from(cache, 'k', () => 'old'), 'miss');
  await isLive(cache);
  hold = gate();
  const before = sent.length;
  const slow = cache.read('k', never);
  await until(() => sent.slice(before).some(([name, key]) => name === 'GET' && key === 'k'), 'the cache is asked');
  await server.admin.ping();
  await daemon.delete('k', 'heard');
  await isHeard(cache);
  hold.open();
  hold = undefined;
  await slow;
  assert.equal((await cache.read('k', () => 'new')).value, 'new');
});

/** All that was said so far has come to this process. */
async function isHeard(cache) {
  await isKept(cache, 'heard');
  await daemon.delete('heard');
  await isForgotten(cache, 'heard');
}

test('a row that changed while it was fetched is answered, and not kept', async () => {
  const cache = make();
  await isLive(cache);
  const [hold, begun] = [gate(), gate()];
  const slow = cache.read('k', () => (begun.open(), hold.promise));
  await begun.promise;
  await daemon.delete('k');
  await isHeard(cache);
  hold.open('old');
  assert.equal((await slow).value, 'old');
  assert.equal((await cache.read('k', () => 'new')).value, 'new');
});

test('a flush between the read and the store keeps nothing', async () => {
  const cache = make();
  await isLive(cache);
  const [hold, begun] = [gate(), gate()];
  const slow = cache.read('k', () => (begun.open(), hold.promise));
  await begun.promise;
  await daemon.deleteUnsaid('k');
  await daemon.restart();
  await isHeard(cache);
  hold.open('old');
  await slow;
  assert.equal((await cache.read('k', () => 'new')).value, 'new');
});

test('callers get objects of their own; what is not stored, or has no text, is not kept', async () => {
  const cache = make();
  await isKept(cache, 'k', { list: [1] });
  const one = await cache.getOrSet('k', never);
  one.list.push(2);
  assert.deepEqual(await cache.getOrSet('k', never), { list: [1] });
  for (const [key, value, options] of [['no', 'x', { storeIf: () => false }], ['undefined', undefined, {}], ['big', 1n, {}]])
    for (let i = 0; i < 3; i++) assert.notEqual((await cache.read(key, () => value, options)).from, 'memory', key);
  await assert.rejects(cache.read('error', () => Promise.reject(new Error('wanted'))), /wanted/);
});

test('names, namespaces and an own invalidation', async () => {
  const cache = make({ namespace: 'a' });
  await isKept(cache, 'k');
  assert.equal((await cache.read('k', () => 'other', { namespace: 'b' })).value, 'other');
  assert.equal((await cache.read('k', never, { namespace: 'b' })).value, 'other');
  assert.equal(await cache.invalidate(['k']), true);
  assert.equal((await cache.read('k', () => 'new')).value, 'new');
  await isKept(cache, 'k', 'new');
  await daemon.delete('a:k');
  await isForgotten(cache, 'k');
  assert.equal((await cache.read('k', never, { namespace: 'b' })).value, 'other');
});

test('nothing stands longer than `seconds` or its TTL, and the least lately used goes first', async () => {
  const cache = make({ memory: { seconds: 0.2 } });
  await isKept(cache, 'k');
  await isForgotten(cache, 'k');
  const small = make({ memory: { maxBytes: 3_000 } });
  await isLive(small);
  const text = 'x'.repeat(400);
  for (const key of ['a', 'b', 'c']) await isKept(small, key, text);
  assert.equal(await from(small, 'a'), 'memory');
  await isKept(small, 'd', text);
  assert.equal(await from(small, 'a'), 'memory');
  const { bytes, entries } = small.memory();
  assert.ok(bytes <= 3_000 && entries === 3, `${entries} entries, ${bytes} bytes`);
  await from(small, 'huge', () => 'x'.repeat(5_000));
  assert.equal(await from(small, 'huge', never), 'hit');
});

test('of two daemons both must be heard; a third one is listened to', async () => {
  const second = publisher(server.admin, { slot: 'second' });
  const third = publisher(server.admin, { slot: 'third' });
  try {
    const cache = make({ memory: { slot: ['crieur', 'second'], boundMs: 500 } });
    for (const one of [daemon, second, third]) {
      await isKept(cache, 'k');
      await one.delete('k');
      await isForgotten(cache, 'k');
    }
    await isKept(cache, 'k');
    await third.pause();
    await second.pause();
    await until(() => !cache.memory().live, 'one is silent');
  } finally {
    await second.stop();
    await third.stop();
  }
});

test('without a store, or with a wrong option', async () => {
  const subscriber = connect('ioredis6', server.port, { lazyConnect: true });
  const cache = createMemoryCache({ store: null, memory: { subscriber, slot: 'crieur' } });
  assert.deepEqual(await cache.read('k', () => 1), { value: 1, from: 'bypass' });
  assert.equal(cache.memory().live, false);
  await cache.close();
  for (const memory of [{ slot: '' }, { slot: [] }, { slot: 'x', boundMs: 0 }, { slot: 'x', boundMs: NaN }])
    assert.throws(() => createMemoryCache({ store: null, memory: { subscriber, ...memory } }), /memory\./);
  subscriber.disconnect();
});

/** Rows that change, a daemon that loses its voice and its connection, a reader that loses its own: how often an old row came. */
async function torture(isEnough, options) {
  const boundMs = 400;
  const rows = Array.from({ length: 20 }, () => 0);
  /** When the delete of each version was answered. */
  const deleted = rows.map(() => [0]);
  const caches = [1, 2].map(() => make({ memory: { boundMs }, ...options }));
  let isOver = false;
  let stale = 0;
  let hits = 0;
  const below = (n) => Math.floor(Math.random() * n);
  async function writer(row) {
    while (!isOver) {
      const version = ++rows[row];
      // What was deleted and not said is followed by another epoch before anything else is said.
      const isUnsaid = below(20) === 0;
      if (isUnsaid) await Promise.all([daemon.deleteUnsaid(`row-${row}`), daemon.restart(), daemon.say()]);
      else if (below(20) === 0) await Promise.all([daemon.lose(), daemon.delete(`row-${row}`)]);
      else await daemon.delete(`row-${row}`);
      deleted[row][version] = performance.now();
      // Longer than the bound: only so an old value has the time to be seen.
      await sleep(below(4 * boundMs));
    }
  }
  async function killer() {
    while (!isOver) {
      await sleep(800 + below(700));
      await server.admin.client('KILL', 'TYPE', 'pubsub');
    }
  }
  async function reader() {
    while (!isOver) {
      const row = below(rows.length);
      const begun = performance.now();
      const least = deleted[row].findLastIndex((at) => at <= begun - boundMs);
      const found = await caches[below(2)].read(`row-${row}`, async () => {
        const seen = rows[row];
        await sleep(below(4));
        return seen;
      });
      if (found.from === 'memory') {
        hits++;
        if (found.value < least) stale++;
      } else await sleep(below(3));
      if (hits % 50 === 0) await sleep(1);
    }
  }
  const work = [...rows.map((_, row) => writer(row)), killer(), ...Array.from({ length: 6 }, reader)];
  try {
    await until(() => isEnough({ stale, hits }), 'enough reads');
  } catch (error) {
    throw new Error(`${error.message}: ${stale} of ${hits}, ${JSON.stringify(flushes().slice(-20))}`);
  } finally {
    isOver = true;
    await Promise.all(work);
  }
  return { stale, hits };
}

test('no value is served longer than the bound behind its delete; without the numbers and epochs some are', async () => {
  const exact = await torture(({ hits }) => hits >= 60_000 && ['number', 'epoch', 'connection'].every((why) => flushes().includes(why)));
  assert.equal(exact.stale, 0, `of ${exact.hits}`);
  // A listener for which every message follows the one before, and for which each mark names one that was heard.
  const listen = (subscriber) => {
    let n = 0;
    const { on } = subscriber;
    const rewrite = (text) => JSON.stringify({ ...JSON.parse(text), epoch: 'one', n: ++n });
    subscriber.on = (event, listener) =>
      on.call(subscriber, event, event === 'message' ? (channel, text) => listener(channel, rewrite(text)) : listener);
    return subscriber;
  };
  const wrap = (store) => ({
    ...store,
    async send(...command) {
      const reply = await store.send(...command);
      return command[1].startsWith('crieur:mark:') ? JSON.stringify({ ...JSON.parse(reply), published: { epoch: 'one', n: 0 } }) : reply;
    },
  });
  const wrong = await torture(({ stale }) => stale > 0, { listen, wrap });
  console.log(`torture: ${exact.hits} hits in memory, none later than the bound; without the guards ${wrong.stale} of ${wrong.hits}`);
});
