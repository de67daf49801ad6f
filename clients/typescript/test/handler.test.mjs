// The cache handler for Next on a real server, called as Next calls it. test/next/handler.test.mjs has Next itself.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { fromIoredis } from '../dist/ioredis.js';
import { fromUpstash } from '../dist/upstash.js';
import { createNextHandler } from '../dist/next-handler.js';
import * as lua from '../dist/next-lua.js';
import { startRest } from './parts/rest.mjs';
import { connect, startServer } from './parts/servers.mjs';
import { gate, nothingIsUnhandled, sleep, until } from './parts/waiting.mjs';

nothingIsUnhandled();

let server, events;
const open = [];
before(async () => {
  server = await startServer('valkey');
});
after(async () => {
  for (const client of open) client.disconnect();
  await server.stop();
});
beforeEach(async () => {
  events = [];
  await server.admin.flushall();
});

/** A handler, as one instance of `next start` has it. */
function instance(options = {}, wrap = (store) => store) {
  const client = connect('ioredis6', server.port, { maxRetriesPerRequest: 0 });
  client.on('error', () => {});
  open.push(client);
  return createNextHandler({ store: wrap(fromIoredis(client)), on: (event) => events.push(event), ...options });
}

const now = () => performance.timeOrigin + performance.now();
const streamOf = (text) => new Response(text).body;
const textOf = async (entry) => entry && new Response(entry.value).text();
const times = { stale: 300, expire: 3600, revalidate: 900 };

/** Renders as `'use cache'` does: a look, and behind it the render, which is stored. */
async function use(handler, key, tags, render, softTags = []) {
  const found = await handler.get(key, softTags);
  if (found) return textOf(found);
  const timestamp = now();
  const text = await render();
  await handler.set(key, Promise.resolve({ value: streamOf(text), tags, timestamp, ...times }));
  return text;
}
const never = () => assert.fail('rendered');
const expire = (...tags) => server.admin.unlink(...tags.map((tag) => `next:tag:${tag}`));
const kinds = () => events.filter(({ type }) => !['hit', 'miss'].includes(type)).map(({ type }) => type);

/** Renders until it is stored: the first render of a tag makes its key, and the next is stored. */
async function fill(handler, key, tags, text) {
  await until(async () => (await use(handler, key, tags, async () => text)) && (await handler.get(key, [])), `${key} is stored`);
}

describe("'use cache'", () => {
  test('a tag that nobody had is learnt by the first render, and the second is stored', async () => {
    const one = instance();
    assert.equal(await use(one, 'k', ['a'], async () => '1'), '1');
    assert.equal(await use(one, 'k', ['a'], async () => '2'), '2');
    assert.equal(await use(one, 'k', ['a'], never), '2');
    assert.deepEqual(kinds(), ['refused', 'set']);
    const entry = await instance().get('k', []);
    assert.deepEqual({ ...entry, value: 0, timestamp: 0 }, { value: 0, timestamp: 0, tags: ['a'], ...times });
  });

  test('crieur deletes the key of a tag, and every instance has a miss; one render fills again', async () => {
    const [one, two] = [instance(), instance()];
    await fill(one, 'k', ['a', 'b'], 'old');
    await fill(one, 'other', ['c'], 'kept');
    assert.equal(await textOf(await two.get('k', [])), 'old');
    await expire('b');
    for (const handler of [two, one]) assert.equal(await handler.get('k', []), undefined);
    assert.equal(await textOf(await two.get('other', [])), 'kept');
    assert.equal(await use(two, 'k', ['a', 'b'], async () => 'new'), 'new');
    assert.equal(await use(one, 'k', ['a', 'b'], never), 'new');
  });

  test('a render that began before the delete and ended after it is not served, by whomever the key was made again', async () => {
    const [one, two] = [instance(), instance()];
    await fill(one, 'k', ['a'], 'older');
    await expire('a');
    for (const makesAgain of [false, true]) {
      const [{ promise, open: goOn }, begun] = [gate(), gate()];
      const slow = use(one, 'k', ['a'], () => (begun.open(), promise));
      await begun.promise;
      assert.equal(await server.admin.exists('next:tag:a'), 1, 'the look has made the key');
      await expire('a');
      if (makesAgain) await fill(two, 'other', ['a'], 'new');
      goOn('old');
      assert.equal(await slow, 'old');
      assert.equal(await two.get('k', []), undefined, `${makesAgain}`);
      assert.equal(events.at(-2).type, 'refused');
    }
    assert.equal(await use(two, 'k', ['a'], async () => 'new'), 'new');
    assert.equal(await use(one, 'k', ['a'], never), 'new');
  });

  test('a background render is stored under the clock of its begin, and not of the latest look', async () => {
    const [one, two] = [instance(), instance()];
    await fill(one, 'k', ['a'], 'old');
    const timestamp = now();
    await sleep(2);
    await expire('a');
    await fill(two, 'other', ['a'], 'new');
    await one.get('unrelated', []); // This process knows a newer clock now.
    await one.set('k', Promise.resolve({ value: streamOf('old'), tags: ['a'], timestamp, ...times }));
    assert.equal(await one.get('k', []), undefined);
  });

  test('what joined an older render counts from its begin', async () => {
    const one = instance();
    await fill(one, 'inner', ['a'], 'older');
    await fill(one, 'outer', ['a'], 'older');
    await expire('a');
    const [{ promise, open: goOn }, first, second] = [gate(), gate(), gate()];
    const inner = use(one, 'inner', ['a'], () => (first.open(), promise));
    await first.promise;
    await expire('a');
    // Another request: it looks for its own entry, behind the delete, and Next lets it join the inner render.
    const outer = use(one, 'outer', ['a'], () => (second.open(), inner));
    await second.promise;
    goOn('old');
    assert.deepEqual(await Promise.all([inner, outer]), ['old', 'old']);
    for (const key of ['inner', 'outer']) assert.equal(await one.get(key, []), undefined, key);
    assert.equal(await use(one, 'outer', ['a'], async () => 'new'), 'new');
    assert.equal(await use(one, 'outer', ['a'], never), 'new');
  });

  test('tags are the letters of the application, though Next writes them in percent', async () => {
    const one = instance();
    await fill(one, 'k', [encodeURI('city-Thiès'), '100%41', '%zz'], 'old');
    assert.deepEqual((await server.admin.keys('next:tag:*')).sort(), ['next:tag:%zz', 'next:tag:100%41', 'next:tag:city-Thiès']);
    await expire('city-Thiès');
    assert.equal(await one.get('k', []), undefined);
    await fill(one, 'k', [encodeURI('city-Thiès')], 'new');
    await one.updateTags([encodeURI('city-Thiès')], { expire: 0 });
    assert.equal(await one.get('k', []), undefined);
  });

  test('revalidateTag and revalidatePath of one instance reach the others', async () => {
    const [one, two] = [instance(), instance()];
    await fill(one, 'k', ['a'], 'old');
    await two.updateTags(['a']);
    assert.equal(await one.get('k', []), undefined);
    await fill(one, 'k', ['a'], 'new');
    const paths = ['_N_T_/layout', '_N_T_/ville/page', '_N_T_/ville/Dakar'];
    assert.equal(await textOf(await one.get('k', paths)), 'new');
    await two.updateTags(['_N_T_/ville/Dakar']);
    assert.equal(await one.get('k', paths), undefined);
    assert.equal(await textOf(await one.get('k', ['_N_T_/layout', '_N_T_/ville/Thiès'])), 'new', 'another path');
    assert.equal(await use(one, 'k', ['a'], async () => 'newer', paths), 'newer');
    assert.equal(await use(two, 'k', ['a'], never, paths), 'newer');
    assert.equal(await one.getExpiration(paths), Infinity);
  });

  test('a clock that was lost, by an eviction or a flush, takes everything with it', async () => {
    const one = instance();
    await fill(one, 'k', ['a'], 'old');
    const [{ promise, open: goOn }, begun] = [gate(), gate()];
    const slow = use(one, 'slow', ['a'], () => (begun.open(), promise));
    await begun.promise;
    await server.admin.unlink('next:clock');
    assert.equal(await one.get('k', []), undefined);
    goOn('old');
    await slow;
    assert.equal(await one.get('slow', []), undefined);
    await fill(one, 'k', ['a'], 'new');
  });

  test('more than 10,000 expired paths expire everything, and the clock begins anew', async () => {
    const one = instance();
    await fill(one, 'k', [], 'old');
    const paths = Array.from({ length: 10_001 }, (_, i) => `_N_T_/${i}`);
    await one.updateTags(paths);
    assert.equal(await one.get('k', []), undefined);
    assert.ok((await server.admin.hlen('next:clock')) < 10);
  });

  test('a render that failed half-way, or that is made anew at each read, is not stored', async () => {
    const one = instance();
    await fill(one, 'k', ['a'], 'old');
    await expire('a');
    await one.get('k', []);
    const broken = new ReadableStream({ start: (controller) => (controller.enqueue(new Uint8Array(1)), controller.error(new Error('wanted'))) });
    await one.set('k', Promise.resolve({ value: broken, tags: ['a'], timestamp: now(), ...times }));
    await one.set('k', Promise.resolve({ value: streamOf('x'), tags: ['a'], timestamp: now(), ...times, expire: 0 }));
    assert.equal(await one.get('k', []), undefined);
    await assert.rejects(one.set('k', Promise.reject(new Error('wanted'))), /wanted/);
    assert.equal(await use(one, 'k', ['a'], async () => 'new'), 'new');
    assert.equal(await use(one, 'k', ['a'], never), 'new');
  });

  test('a get waits for the set that is under way', async () => {
    const one = instance();
    await fill(one, 'k', ['a'], 'old');
    await expire('a');
    await one.get('k', []);
    const { promise, open: goOn } = gate();
    const set = one.set('k', promise);
    const got = one.get('k', []);
    goOn({ value: streamOf('new'), tags: ['a'], timestamp: now(), ...times });
    assert.equal(await textOf(await got), 'new');
    await set;
  });

  test('no key is without a TTL, and none has the arguments of a call in its name', async () => {
    const one = instance({ maxSeconds: 1000 });
    await fill(one, '["build","id",{"name":"Awa Diop"}]', ['a'], 'x');
    await one.updateTags(['_N_T_/x']);
    const keys = await server.admin.keys('*');
    assert.ok(keys.length >= 3);
    for (const key of keys) {
      const ttl = await server.admin.ttl(key);
      assert.ok(ttl > 0 && ttl <= 1000, `${key}: ${ttl}`);
      assert.doesNotMatch(key, /Awa/);
    }
    assert.ok(!JSON.stringify(events).includes('Awa'));
  });
});

describe('pages, fetch and unstable_cache', () => {
  const page = (text, tags) => ({
    kind: 'APP_PAGE', html: `<p>${text}</p>`, rscData: Buffer.from([0, 255, 1]), status: 200, postponed: undefined,
    headers: { 'x-next-cache-tags': tags.join() }, segmentData: new Map([['/_tree', Buffer.from('tree')]]),
  });
  const context = { kind: 'APP_PAGE', isFallback: false, cacheControl: { revalidate: false, expire: undefined } };
  /** One request. */
  async function request(Handler, key, tags, render) {
    const handler = new Handler({ serverDistDir: '/nowhere/server' });
    const found = await handler.get(key, context);
    if (found) return found;
    const data = page(await render(), tags);
    await handler.set(key, data, context);
    return { value: data };
  }
  const fetched = (text) => ({ kind: 'FETCH', data: { headers: {}, body: text, status: 200, url: '' }, revalidate: 31536000 });
  const asked = (tags, softTags = []) => ({ kind: 'FETCH', tags, softTags });
  async function data(Handler, key, tags, render, softTags) {
    const handler = new Handler({});
    const found = await handler.get(key, asked(tags, softTags));
    if (found) return found.value.data.body;
    const text = await render();
    await handler.set(key, fetched(text), { fetchCache: true, tags });
    return text;
  }

  test('a page is what it was, with its bytes and segments, until one of its tags is deleted', async () => {
    const [One, Two] = [instance(), instance()];
    const tags = ['list', '_N_T_/layout', '_N_T_/ville/Dakar'];
    await request(One, '/p', tags, async () => 'learn');
    await request(One, '/p', tags, async () => 'old');
    const { value, cacheControl, lastModified } = await request(Two, '/p', tags, never);
    const { postponed, ...whole } = page('old', tags);
    assert.deepEqual(value, whole);
    assert.ok(value.segmentData instanceof Map && Buffer.isBuffer(value.rscData));
    assert.deepEqual(cacheControl, { revalidate: false });
    assert.ok(Math.abs(Date.now() - lastModified) < 60_000);
    await expire('list');
    assert.equal((await request(Two, '/p', tags, async () => 'new')).value.html, '<p>new</p>');
    assert.equal((await request(One, '/p', tags, never)).value.html, '<p>new</p>');
    await new Two({}).revalidateTag(['_N_T_/ville/Dakar']);
    assert.equal((await request(One, '/p', tags, async () => 'newer')).value.html, '<p>newer</p>');
    assert.equal((await request(Two, '/p', tags, never)).value.html, '<p>newer</p>');
  });

  test('a page that was rendered across the delete is not kept', async () => {
    const One = instance();
    for (const text of ['learn', 'old']) await request(One, '/p', ['list'], async () => text);
    await expire('list');
    await request(One, '/p', ['list'], async () => {
      await expire('list');
      await request(One, '/other', ['list'], async () => 'new'); // Makes the key again.
      return 'old';
    });
    assert.equal((await request(One, '/p', ['list'], async () => 'new')).value.html, '<p>new</p>');
  });

  test('data with tags is stored at once, and not across a delete', async () => {
    const [One, Two] = [instance(), instance()];
    assert.equal(await data(One, 'f', ['a'], async () => 'old'), 'old');
    assert.equal(await data(Two, 'f', ['a'], never), 'old');
    await expire('a');
    await data(One, 'f', ['a'], async () => (await expire('a'), await data(Two, 'g', ['a'], async () => 'new'), 'old'));
    assert.equal(await data(Two, 'f', ['a'], async () => 'new'), 'new');
    assert.equal(await data(One, 'f', ['a'], never), 'new');
  });

  test('of two readers with other tags, the tags of both expire the data', async () => {
    const One = instance();
    await data(One, 'f', ['a'], async () => '1');
    assert.equal(await data(One, 'f', ['b'], async () => '2'), '2');
    assert.equal(await data(One, 'f', ['a'], never), '2');
    assert.equal(await data(One, 'f', ['b'], never), '2');
    await expire('a');
    assert.equal(await data(One, 'f', ['b'], async () => '3'), '3');
  });

  test('revalidatePath expires the data that a path reads', async () => {
    const One = instance();
    await data(One, 'f', ['a'], async () => 'old', ['_N_T_/x']);
    assert.equal(await data(One, 'f', ['a'], never, ['_N_T_/x']), 'old');
    await new One({}).revalidateTag('_N_T_/x');
    assert.equal(await data(One, 'f', ['a'], never, ['_N_T_/y']), 'old');
    assert.equal(await data(One, 'f', ['a'], async () => 'new', ['_N_T_/x']), 'new');
    assert.equal(await data(One, 'f', ['a'], never, ['_N_T_/x']), 'new');
  });

  test('a request whose first look had no answer stores nothing', async () => {
    let isAway = true;
    const One = instance({}, (store) => ({ ...store, send: (...command) => (isAway ? Promise.reject(new Error('wanted')) : store.send(...command)) }));
    const handler = new One({});
    assert.equal(await handler.get('f', asked([])), null);
    isAway = false;
    assert.equal(await handler.get('g', asked([])), null);
    await handler.set('f', fetched('old'), { fetchCache: true, tags: [] });
    assert.equal(await new One({}).get('f', asked([])), null);
  });
});

for (const way of ['REST', 'Redis'])
  test(`over ${way} it is the same`, async () => {
    const other = await startServer(way === 'Redis' ? 'redis' : 'valkey');
    const rest = way === 'REST' ? await startRest(other.port) : undefined;
    const client = connect('ioredis6', other.port, { maxRetriesPerRequest: 0 });
    open.push(client);
    const store = rest ? fromUpstash({ url: rest.url, token: rest.token }) : fromIoredis(client);
    try {
      const handler = createNextHandler({ store, prefix: 'app' });
      await fill(handler, 'k', ['a'], 'old');
      await other.admin.unlink('app:tag:a');
      assert.equal(await use(handler, 'k', ['a'], async () => 'new'), 'new');
      assert.equal(await use(handler, 'k', ['a'], never), 'new');
      const paths = ['_N_T_/x'];
      await handler.updateTags(paths);
      assert.equal(await handler.get('k', paths), undefined);
      const one = new handler({});
      await one.get('f', { kind: 'FETCH', tags: ['a'] });
      await one.set('f', { kind: 'FETCH', data: { body: 'x' } }, { fetchCache: true, tags: ['a'] });
      assert.equal((await new handler({}).get('f', { kind: 'FETCH', tags: ['a'] })).value.data.body, 'x');
    } finally {
      await rest?.stop();
      await other.stop();
    }
  });

test('without the server a look is a miss in bounded time, and an expiry that nobody had rejects', async () => {
  const gone = await startServer('valkey');
  const client = connect('ioredis6', gone.port, { maxRetriesPerRequest: 0 });
  client.on('error', () => {});
  open.push(client);
  const handler = createNextHandler({ store: () => fromIoredis(client), on: (event) => events.push(event) });
  await fill(handler, 'k', ['a'], 'old');
  await gone.stop();
  const start = performance.now();
  for (let i = 0; i < 20; i++) assert.equal(await use(handler, 'k', ['a'], async () => 'row'), 'row');
  assert.ok(performance.now() - start < 15_000);
  assert.ok(kinds().includes('pause'));
  await assert.rejects(handler.updateTags(['a']), /the tags were not expired/);
  await assert.rejects(new handler({}).revalidateTag('a'), /the tags were not expired/);
});

test('next build asks nobody, and stores nothing', async () => {
  process.env.NEXT_PHASE = 'phase-production-build';
  try {
    const handler = createNextHandler({ store: () => assert.fail('opened') });
    assert.equal(await use(handler, 'k', ['a'], async () => 'row'), 'row');
    const one = new handler({ serverDistDir: '/nowhere' });
    assert.equal(await one.get('k', { kind: 'APP_PAGE' }), null);
    await one.set('k', { kind: 'FETCH' }, { fetchCache: true });
    await handler.updateTags(['a']);
    await one.revalidateTag('a');
  } finally {
    delete process.env.NEXT_PHASE;
  }
});

/** Rows that change, with deletes behind them, and instances that render slowly: how often an old row was served. */
async function torture(isEnough, wrap) {
  const rows = Array.from({ length: 4 }, () => 0);
  /** Up to which version the delete of a row was answered. */
  const deleted = rows.map(() => 0);
  const instances = [instance({}, wrap), instance({}, wrap)];
  let isOver = false;
  let stale = 0;
  let hits = 0;
  const below = (n) => Math.floor(Math.random() * n);
  async function writer(row) {
    while (!isOver) {
      const version = ++rows[row];
      await expire(`row-${row}`);
      deleted[row] = version;
      await sleep(below(80));
    }
  }
  async function reader() {
    while (!isOver) {
      const [a, b] = [below(rows.length), below(rows.length)];
      const least = [deleted[a], deleted[b]];
      let isHit = true;
      const text = await use(instances[below(2)], `${a}-${b}`, [`row-${a}`, `row-${b}`], async () => {
        isHit = false;
        const seen = [rows[a], rows[b]];
        await sleep(below(8));
        return seen.join();
      });
      const [left, right] = text.split(',').map(Number);
      if (isHit) hits++;
      if (isHit && (left < least[0] || right < least[1])) stale++;
    }
  }
  const work = [...rows.map((_, row) => writer(row)), ...Array.from({ length: 8 }, reader)];
  await until(() => isEnough({ stale, hits }), 'enough reads');
  isOver = true;
  await Promise.all(work);
  return { stale, hits };
}

test('no old row is served, whenever it changes; without the comparison of the clocks some are', async () => {
  const exact = await torture(({ hits }) => hits >= 300);
  assert.equal(exact.stale, 0);
  const careless = lua.SAVE.replace('tonumber(at) > tonumber(ARGV[5])', 'false').replace("fits = false\n    missing", "tokens[ARGV[i]] = 'x'\n    missing");
  assert.notEqual(careless, lua.SAVE);
  const wrong = await torture(({ stale }) => stale > 0, (store) => ({ ...store, send: (name, script, ...rest) => store.send(name, script === lua.SAVE ? careless : script, ...rest) }));
  console.log(`torture: ${exact.hits} hits, 0 stale; without the guard ${wrong.stale} of ${wrong.hits}`);
});
