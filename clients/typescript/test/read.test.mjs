// Reads over real servers and both versions of ioredis.

import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { createCache } from '../dist/index.js';
import { fromIoredis } from '../dist/ioredis.js';
import { binaries, connect, startServer } from './parts/servers.mjs';
import { gate } from './parts/waiting.mjs';

const servers = {};
before(async () => {
  for (const kind of ['valkey', 'redis']) if (binaries[kind]) servers[kind] = await startServer(kind);
});
after(async () => {
  for (const server of Object.values(servers)) await server.stop();
});
beforeEach(async () => {
  for (const server of Object.values(servers)) await server.admin.flushall();
});

/** Runs a test on every pair of a server and a client. */
function everywhere(name, work) {
  for (const kind of ['valkey', 'redis'])
    for (const version of ['ioredis5', 'ioredis6'])
      test(`${name} (${kind}, ${version})`, { skip: !binaries[kind], timeout: 30_000 }, async (t) => {
        const { admin, port } = servers[kind];
        const events = [];
        const made = [];
        const make = (options = {}, clientOptions = {}) => {
          const client = connect(version, port, clientOptions);
          const cache = createCache({
            store: fromIoredis(client),
            namespace: 'properties',
            on: (event) => events.push(event),
            ...options,
          });
          made.push(cache);
          return cache;
        };
        t.after(() => Promise.all(made.map((cache) => cache.close())));
        await work({ t, admin, make, events, types: () => events.map(({ type }) => type) });
      });
}

const K = 'properties:detail:7';

everywhere('a miss stores, a hit answers the same', async ({ admin, make, types }) => {
  const cache = make();
  const row = { id: 7, at: new Date(0), name: 'Thiès', none: undefined };
  const shaped = { id: 7, at: '1970-01-01T00:00:00.000Z', name: 'Thiès' };
  let runs = 0;
  const fetcher = () => (runs++, row);
  assert.deepEqual(await cache.read('detail:7', fetcher, { ttl: 60 }), { value: shaped, from: 'miss' });
  assert.equal(await admin.get(K), 'V' + JSON.stringify(row));
  const ttl = await admin.ttl(K);
  assert.ok(ttl > 50 && ttl <= 60, `${ttl}`);
  assert.deepEqual(await cache.read('detail:7', fetcher), { value: shaped, from: 'hit' });
  assert.equal(runs, 1);
  assert.deepEqual(types(), ['miss', 'set', 'hit']);
  assert.deepEqual(cache.stats(), {
    hits: 1, misses: 1, joined: 0, bypassed: 0, stored: 1, refused: 0, errors: 0, hitRate: 0.5,
  });
});

everywhere('null is a value, undefined is none', async ({ admin, make }) => {
  const cache = make();
  assert.equal(await cache.getOrSet('a', () => null), null);
  assert.equal(await admin.get('properties:a'), 'Vnull');
  assert.deepEqual(await cache.read('a', () => assert.fail()), { value: null, from: 'hit' });
  assert.equal(await cache.getOrSet('b', () => undefined), undefined);
  assert.equal(await admin.exists('properties:b'), 0);
  for (const value of [0, '', false, 'V', 'L1', 'null']) {
    assert.deepEqual(await cache.read(`c${value}`, () => value), { value, from: 'miss' });
    assert.deepEqual(await cache.read(`c${value}`, () => assert.fail()), { value, from: 'hit' });
  }
});

everywhere('an error is the caller\'s alone, and is not stored', async ({ admin, make, events }) => {
  const cache = make();
  const mine = new Error('mine');
  const first = cache.getOrSet('e', () => Promise.reject(mine));
  const second = cache.getOrSet('e', async () => 2);
  await assert.rejects(first, (error) => error === mine);
  assert.equal(await second, 2);
  assert.equal(await admin.get('properties:e'), 'V2');
  assert.equal(cache.stats().errors, 0);
  assert.ok(!events.some(({ type }) => type === 'error'));
});

everywhere('a store behind a delete is refused', async ({ admin, make, types }) => {
  const cache = make();
  const value = await cache.getOrSet('detail:7', async () => {
    await admin.unlink(K);
    return 'old';
  });
  assert.equal(value, 'old');
  assert.equal(await admin.exists(K), 0);
  assert.deepEqual(types(), ['miss', 'refused']);
  assert.deepEqual([cache.stats().misses, cache.stats().refused, cache.stats().stored], [1, 1, 0]);
});

everywhere('the row is read behind the lease', async ({ admin, make }) => {
  for (const protocol of ['key', 'companion']) {
    let seen;
    await make({ protocol }).getOrSet(protocol, async () => {
      seen = await admin.get(protocol === 'key' ? 'properties:key' : 'lease:{properties:companion}');
      return 1;
    });
    assert.match(`${seen}`, /^L/, protocol);
  }
});

everywhere('twenty callers make one fetch', async ({ make, admin }) => {
  const cache = make();
  let runs = 0;
  const calls = Array.from({ length: 20 }, () =>
    cache.read('list', async () => {
      runs++;
      return { n: 1 };
    }),
  );
  const reads = await Promise.all(calls);
  assert.equal(runs, 1);
  assert.equal(new Set(reads.map(({ value }) => value)).size, 20, 'each caller has its own object');
  assert.equal(reads.filter(({ from }) => from === 'miss').length, 1);
  assert.equal(await admin.get('properties:list'), 'V{"n":1}');
});

everywhere('a call behind an invalidation joins no older read', async ({ make, admin }) => {
  for (const protocol of ['key', 'companion']) {
    const cache = make({ protocol });
    const hold = gate();
    const begun = gate();
    const old = cache.getOrSet(protocol, async () => {
      begun.open();
      await hold.promise;
      return 'old';
    });
    await begun.promise;
    // Its lease stands: whoever comes now may join.
    const joiner = cache.read(protocol, () => assert.fail('it joins'));
    assert.equal(await cache.invalidate([protocol]), true);
    const fresh = await cache.read(protocol, () => 'new');
    assert.deepEqual(fresh, { value: 'new', from: 'miss' });
    hold.open();
    assert.equal(await old, 'old');
    await joiner;
    assert.deepEqual(await cache.read(protocol, () => assert.fail()), { value: 'new', from: 'hit' });
  }
});

everywhere('what is foreign costs the row, and no waiting', async ({ admin, make }) => {
  const cache = make();
  await admin.set('properties:a', 'plain text');
  await admin.set('properties:b', 'V{not json');
  await admin.rpush('properties:c', 'x');
  for (const key of ['a', 'b', 'c']) {
    const start = performance.now();
    assert.deepEqual(await cache.read(key, () => 1), { value: 1, from: 'bypass' });
    assert.ok(performance.now() - start < 900, key);
  }
  assert.equal(await admin.get('properties:a'), 'plain text');
  // An answer about one key says nothing about the server.
  for (let i = 0; i < 5; i++) await cache.read('c', () => 1);
  assert.deepEqual(await cache.read('d', () => 1), { value: 1, from: 'miss' });
});

everywhere('another\'s lease is waited for, and then the row is read without a store', async ({ admin, make }) => {
  const cache = make({ waitMs: 120 });
  await admin.set('properties:a', 'Lother', 'PX', 60_000);
  assert.deepEqual(await cache.read('a', () => 1), { value: 1, from: 'bypass' });
  assert.equal(await admin.get('properties:a'), 'Lother');
  const slow = make({ waitMs: 20_000 });
  const read = slow.read('a', () => assert.fail('it waits'));
  await admin.set('properties:a', 'V5', 'EX', 60);
  assert.deepEqual(await read, { value: 5, from: 'hit' });
});

everywhere('beside the key, and plain, the text is bare', async ({ admin, make }) => {
  for (const protocol of ['companion', 'plain']) {
    const cache = make({ protocol }, { maxRetriesPerRequest: 0 });
    assert.deepEqual(await cache.read(protocol, () => ({ a: 1 })), { value: { a: 1 }, from: 'miss' });
    assert.equal(await admin.get(`properties:${protocol}`), '{"a":1}');
    assert.equal(await admin.exists(`lease:{properties:${protocol}}`), 0);
    assert.deepEqual(await cache.read(protocol, () => assert.fail()), { value: { a: 1 }, from: 'hit' });
    await cache.getOrSet('late', async () => {
      if (protocol === 'companion') assert.ok((await admin.pttl('lease:{properties:late}')) > 0);
      await admin.unlink('properties:late', 'lease:{properties:late}');
      return 'old';
    });
    assert.equal(await admin.exists('properties:late'), protocol === 'plain' ? 1 : 0);
  }
});

everywhere('a take by script makes a lease that is another at each run', async ({ admin, make }) => {
  for (const protocol of ['key', 'companion']) {
    const cache = make({ take: 'script', protocol });
    const where = protocol === 'key' ? 'properties:s' : 'lease:{properties:s}';
    await cache.getOrSet('s', async () => {
      assert.match(await admin.get(where), /^L[^:]+:\d+:\d+$/);
      assert.ok((await admin.pttl(where)) > 0);
      return 1;
    });
    assert.deepEqual(await cache.read('s', () => assert.fail()), { value: 1, from: 'hit' });
    await admin.flushall();
  }
});

everywhere('a hit is one command, a miss three, with the mark too', async ({ admin, make }) => {
  const counted = async (work) => {
    await admin.config('RESETSTAT');
    await work();
    const stats = await admin.info('commandstats');
    return Object.fromEntries(
      [...stats.matchAll(/cmdstat_(get|set|mget|eval|unlink):calls=(\d+)/g)].map(([, name, n]) => [name, +n]),
    );
  };
  for (const silence of [undefined, { slot: 'crieur', seconds: 20 }]) {
    const cache = make({ ...(silence && { silence }) });
    await admin.set('crieur:mark:crieur', JSON.stringify({ at: Math.floor(Date.now() / 1000), lsn: '0/1' }));
    await admin.set('properties:warm', 'V1');
    await cache.getOrSet('warm', () => 1);
    const look = silence ? 'mget' : 'get';
    assert.deepEqual(await counted(() => cache.getOrSet('warm', () => 1)), { [look]: 1 });
    // The commands inside of the script are counted as well.
    const miss = await counted(() => cache.getOrSet(`m${look}`, () => 1));
    assert.equal((miss.get ?? 0) + (miss.mget ?? 0) - 1, 1);
    assert.equal(miss.eval, 1);
    assert.equal(miss.set - 1, 1);
  }
});

everywhere('a silent crieur is passed by', async ({ admin, make }) => {
  const cache = make({ silence: { slot: 'main', seconds: 20 } });
  const now = Math.floor(Date.now() / 1000);
  await admin.set('properties:a', 'V"cached"');
  const from = async (mark) => {
    if (mark === undefined) await admin.del('crieur:mark:main');
    else await admin.set('crieur:mark:main', mark);
    return (await cache.read('a', () => 'row')).from;
  };
  for (const mark of [undefined, 'no json', 'null', '{}', '{"at":"9999999999"}', JSON.stringify({ at: now - 30 })])
    assert.equal(await from(mark), 'bypass', mark);
  for (const at of [now, now - 5, now + 3600]) assert.equal(await from(JSON.stringify({ at })), 'hit', `${at}`);
  assert.deepEqual([cache.stats().bypassed, cache.stats().errors], [6, 0]);
});

everywhere('grace serves only when the fetcher throws, and says so', async ({ admin, make, types }) => {
  const cache = make();
  const down = () => Promise.reject(new Error('down'));
  assert.equal(await cache.getOrSet('a', () => 1, { ttl: 100, grace: 50 }), 1);
  const ttl = await admin.ttl('grace:{properties:a}');
  assert.ok(ttl > 140 && ttl <= 150, `${ttl}`);
  await admin.del('properties:a');
  const read = await cache.read('a', down, { grace: 50 });
  assert.deepEqual([read.value, read.from], [1, 'grace']);
  assert.ok(read.age >= 0 && read.age < 30);
  assert.ok(types().includes('grace'));
  await assert.rejects(cache.read('a', down), /down/);
  const redirect = Object.assign(new Error('NEXT_REDIRECT'), { digest: 'NEXT_REDIRECT;/' });
  await assert.rejects(cache.read('a', () => Promise.reject(redirect), { grace: 50 }), (error) => error === redirect);
  await cache.getOrSet('b', () => 1);
  assert.equal(await admin.exists('grace:{properties:b}'), 0);
});

everywhere('what cannot be encoded, or may not be stored, is answered and not kept', async ({ admin, make, events }) => {
  const cache = make();
  const big = { n: 1n };
  assert.equal(await cache.getOrSet('a', () => big), big);
  assert.equal(events.filter(({ type }) => type === 'unencodable').length, 1);
  assert.equal(await admin.exists('properties:a'), 0);
  assert.deepEqual(await cache.read('b', () => [], { storeIf: (rows) => rows.length > 0 }), { value: [], from: 'miss' });
  assert.equal(await admin.exists('properties:b'), 0);
  const codec = { encode: (v) => `x${JSON.stringify(v)}`, decode: (t) => JSON.parse(t.slice(1)) };
  const own = make({ codec });
  await own.getOrSet('c', () => 1);
  assert.equal(await admin.get('properties:c'), 'Vx1');
});

everywhere('the store comes behind the answer where somebody waits for it', async ({ admin, make }) => {
  const works = [];
  const cache = make({ waitUntil: (work) => works.push(work) });
  assert.equal(await cache.getOrSet('a', () => 1), 1);
  await Promise.all(works);
  assert.equal(works.length, 1);
  assert.equal(await admin.get('properties:a'), 'V1');
  const outside = make({ waitUntil: () => { throw new Error('no request'); } });
  assert.equal(await outside.getOrSet('b', () => 1), 1);
  assert.equal(await admin.get('properties:b'), 'V1');
});

everywhere('the probe tries each step and leaves nothing', async ({ admin, make }) => {
  const plain = await make().test();
  assert.ok(plain.ok, JSON.stringify(plain));
  const all = plain.steps.map(({ name }) => name).join(' ');
  for (const word of ['PING', 'SET', 'GET', 'EXISTS', 'DEL', 'NX', 'EVAL']) assert.ok(all.includes(word), word);
  assert.ok((await make({ take: 'script' }).test()).ok);
  const cache = make({ silence: { slot: 'main', seconds: 20 } });
  const missing = await cache.test();
  assert.equal(missing.ok, false);
  assert.deepEqual(missing.steps.filter(({ ok }) => !ok).map(({ name }) => name), ['mark']);
  await admin.set('crieur:mark:main', JSON.stringify({ at: Date.now() / 1000 - 5, lsn: '0/1' }));
  const { ok, mark } = await cache.test();
  assert.ok(ok && mark.silentFor >= 4 && mark.silentFor < 20 && mark.lsn === '0/1');
  assert.deepEqual(await admin.keys('*test*'), []);
});

everywhere('a TTL that is none is refused', async ({ make }) => {
  const cache = make({ ttls: { list: 300 } });
  for (const ttl of ['lost', 'constructor', 0, -1, NaN, Infinity, null])
    await assert.rejects(cache.getOrSet('a', () => 1, { ttl }), TypeError, String(ttl));
  assert.equal(await cache.getOrSet('a', () => 1, { ttl: 'list' }), 1);
});
