// The example application as it is deployed: `next build` without a cache, then `next start`, with cache components and
// without, over ioredis and over Upstash's REST, on a real PostgreSQL with crieur behind it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { startRest } from '../parts/rest.mjs';
import { startServer } from '../parts/servers.mjs';
import { timed, until } from '../parts/waiting.mjs';
import { relay, SECRET } from '../parts/webhook.mjs';
import { build, counter, crieur, database, endWorld, missing, project, start } from './world.mjs';

const francs = (amount) => `${amount.toLocaleString('fr-FR').replace(/\s/g, ' ')} FCFA`;
const MONTH = '2026-01';

const absent = missing();
if (absent.length) {
  console.error(absent.join('\n'));
  process.exit(1);
}

let dir, sql, url;
before(async () => {
  dir = project();
  ({ sql, url } = await database(dir));
});
after(endWorld);

/** The way of crieur's messages to the application, and what crieur is told of it. */
async function site() {
  const hook = await relay();
  return { hook, sink: { CRIEUR__SINKS__SITE__URL: hook.url, CRIEUR__SINKS__SITE__SECRET: SECRET, CRIEUR__SINKS__SITE__ECHO: '700ms' } };
}

/** The caches, each with a daemon of its own, and how the application and the daemon are told of it. */
const caches = {
  async ioredis() {
    let server = await startServer('valkey');
    const { port } = server;
    const env = { REDIS_URL: `redis://127.0.0.1:${port}` };
    const { hook, sink } = await site();
    const daemon = await crieur('crieur_tcp', { DATABASE_URL: url, CRIEUR__CACHE__ECHO: '', ...sink, ...env });
    return {
      env, daemon, hook,
      stop: () => server.stop(),
      async again() {
        server = await startServer('valkey', { port });
      },
    };
  },
  async rest() {
    let server = await startServer('valkey');
    let rest = await startRest(server.port);
    const port = Number(new URL(rest.url).port);
    const env = { UPSTASH_REDIS_REST_URL: rest.url, UPSTASH_REDIS_REST_TOKEN: rest.token };
    const only = { CRIEUR__CACHES__UPSTASH__TRANSPORT: 'rest', CRIEUR__CACHES__UPSTASH__ECHO: '' };
    const { hook, sink } = await site();
    const daemon = await crieur('crieur_rest', { DATABASE_URL: url, ...only, ...sink, ...env });
    return {
      env, daemon, hook,
      async stop() {
        await rest.stop();
        await server.stop();
      },
      async again() {
        server = await startServer('valkey');
        rest = await startRest(server.port, rest.token, port);
      },
    };
  },
};
const running = {};
const cacheOf = (name) => (running[name] ??= caches[name]());
after(async () => {
  for (const cache of Object.values(running)) {
    const { hook, stop } = await cache;
    hook.close();
    await stop();
  }
});

/** The fields of the form that has this one, as a browser without scripts sends them, with `values` over them. */
async function submit(app, path, field, values) {
  const page = await app.page(path);
  const form = page.match(/<form.*?<\/form>/gs)?.find((text) => text.includes(field));
  assert.ok(form, `${path} has a form with ${field}`);
  const data = new FormData();
  for (const [input] of form.matchAll(/<input[^>]*>/g)) {
    const of = (name) => input.match(new RegExp(` ${name}="([^"]*)"`))?.[1] ?? '';
    data.set(of('name'), values[of('name')] ?? of('value'));
  }
  return async () => {
    const answer = await fetch(app.url + path, {
      method: 'POST', body: data, redirect: 'manual', headers: { origin: app.url }, signal: AbortSignal.timeout(30_000),
    });
    assert.equal(answer.status, 303, await answer.text());
    return new URL(answer.headers.get('location'), app.url);
  };
}

for (const mode of [true, false]) {
  describe(`cacheComponents: ${mode}`, () => {
    before(async () => {
      const [cache, db] = [await counter(), await counter()];
      const address = mode
        ? { REDIS_URL: `redis://${cache.address}` }
        : { UPSTASH_REDIS_REST_URL: `http://${cache.address}`, UPSTASH_REDIS_REST_TOKEN: 't' };
      const { ms, value: said } = await timed(() => build(dir, mode, { DATABASE_URL: `postgres://x@${db.address}/x`, ...address }));
      console.log(`next build, cacheComponents: ${mode}: ${(ms / 1000).toFixed(1)} s`);
      assert.deepEqual([cache.count, db.count], [0, 0], 'next build opened a connection to the cache, or to the database');
      // That the flag has its effect: a frame that is made by the build, or a page that is made for each request.
      assert.match(said, mode ? /◐ \/biens\/\[id\]/ : /ƒ \/biens\/\[id\]/);
    });

    test('what a deployment takes along has the package and both clients', () => {
      const { files } = JSON.parse(readFileSync(join(dir, mode ? '.next' : '.next-without', 'server/app/page.js.nft.json'), 'utf8'));
      for (const name of ['crieur-cache/dist/env.js', 'ioredis/package.json', '@upstash/redis/package.json', 'postgres/package.json'])
        assert.ok(files.some((file) => file.endsWith(`node_modules/${name}`)), `${name} would not be deployed`);
    });

    for (const name of Object.keys(caches)) describe(name, () => suite(mode, name));
  });
}

function suite(mode, name) {
  let cache, app;
  before(async () => {
    cache = await cacheOf(name);
    await sql`TRUNCATE rental_payments, visit_bookings`;
    app = await start(dir, mode, { DATABASE_URL: url, CRIEUR_WEBHOOK_SECRET: SECRET, ...cache.env });
    cache.hook.to = app.url;
  });
  after(() => {
    cache.hook.to = undefined;
    return app?.stop();
  });

  /** Loads the page until its lines in the log say that this key was a hit. */
  const isHit = (path, key) =>
    until(async () => {
      const from = app.said.length;
      await app.page(path);
      return app.said.slice(from).includes(`[CACHE] HIT   | ${key} | `);
    }, `${path} is a hit`);

  /** Runs the statement, and answers after how many milliseconds the page shows it. */
  const shown = async (statement, path, isRight) => {
    await statement;
    const { ms } = await timed(() => until(async () => isRight(await app.page(path)), `${path} shows the change`));
    return Math.round(ms);
  };

  test('a page is a miss, then a hit, and the log says so in its shapes', async () => {
    for (const key of ['properties:all_properties_public', 'properties:detail:1', 'properties:city:Dakar'])
      await isHit({ all: '/', det: '/biens/1', cit: '/ville/Dakar' }[key.slice(11, 14)], key);
    const lines = app.said.split('\n').filter((line) => line.startsWith('[CACHE]'));
    const all = 'properties:all_properties_public';
    const order = [/MISS  \| (.*) \| \d+ms \(DB\)$/, /SET   \| (.*) \| TTL 300s$/, /HIT   \| (.*) \| \d+ms$/];
    const at = order.map((shape) => lines.findIndex((line) => line.match(shape)?.[1] === all));
    assert.ok(at[0] >= 0 && at[0] < at[1] && at[1] < at[2], lines.join('\n'));
    assert.ok(lines.some((line) => line === '[CACHE] SET   | properties:detail:1 | TTL 3600s'), lines.join('\n'));
  });

  test('a new price is on the pages', async () => {
    const took = [];
    for (const path of ['/', '/biens/1', '/ville/Dakar', '/', '/biens/1', '/ville/Dakar']) {
      await isHit(path, { '/': 'properties:all_properties_public', '/biens/1': 'properties:detail:1' }[path] ?? 'properties:city:Dakar');
      const price = 800_000 + Math.floor(Math.random() * 99_999);
      took.push(await shown(sql`UPDATE properties SET price = ${price} WHERE id = 1`, path, (page) => page.includes(francs(price))));
    }
    console.log(`COMMIT to page, ${name}, cacheComponents: ${mode}: ${took.join(', ')} ms`);
  });

  test('a new property, one that moves and one that goes are seen on the lists', async () => {
    const title = `Loft ${mode} ${name}`;
    await isHit('/', 'properties:all_properties_public');
    // Its page is asked for before it exists: that there is none is cached as well.
    const [{ id }] = await sql`SELECT coalesce(max(id), 0) + 1 AS id FROM properties`;
    assert.ok((await app.page(`/biens/${id}`)).includes('Introuvable'));
    await shown(sql`INSERT INTO properties (id, owner_id, title, city, price) VALUES (${id}, 71, ${title}, 'Mbour', 1)`, '/', (page) => page.includes(title));
    await shown(undefined, `/biens/${id}`, (page) => page.includes(title));
    await isHit('/ville/Mbour', 'properties:city:Mbour');
    await shown(sql`UPDATE properties SET city = 'Ziguinchor' WHERE id = ${id}`, '/ville/Mbour', (page) => !page.includes(title));
    await shown(undefined, '/ville/Ziguinchor', (page) => page.includes(title));
    await shown(sql`DELETE FROM properties WHERE id = ${id}`, '/', (page) => !page.includes(title));
  });

  test('a double click pays once', async () => {
    const pay = await submit(app, '/baux/1', 'name="period"', { period: MONTH });
    const count = async () => (await sql`SELECT count(*)::int AS n FROM rental_payments`)[0].n;
    // Whoever is first waits inside of the lock, at this table.
    const held = await sql.reserve();
    await held`BEGIN`;
    await held`LOCK TABLE rental_payments IN SHARE MODE`;
    const clicks = [pay(), pay()];
    const early = await Promise.race(clicks);
    assert.equal(early.searchParams.get('etat'), 'busy', app.said);
    await held`COMMIT`;
    held.release();
    const states = (await Promise.all(clicks)).map((to) => `${to.pathname} ${to.searchParams.get('etat')}`);
    assert.deepEqual(states.sort(), ['/baux/1 busy', '/baux/1 paye']);
    assert.equal(await count(), 1);
    const page = await app.page('/baux/1?etat=paye');
    assert.ok(page.includes('Paiement enregistré') && page.includes(`<li>${MONTH}`), 'the payment is on the page behind the redirect');
    assert.match(app.said, /^\[LOCK\] {2}ACQUIRED \| payment:1 \| 30s$/m);
    await until(() => /^\[LOCK\] {2}RELEASED \| payment:1$/m.test(app.said), 'the lock is free behind the redirect');
    // Without the lock's help: one after the other, and many at once.
    assert.equal((await pay()).searchParams.get('etat'), 'deja-paye');
    const many = await Promise.all(Array.from({ length: 5 }, pay));
    assert.ok(many.every((to) => ['deja-paye', 'busy'].includes(to.searchParams.get('etat'))), `${many}`);
    assert.equal(await count(), 1);
  });

  test('a slot is given away once, and is gone from the page', async () => {
    await isHit('/biens/1', 'available_slots:1');
    const slot = 'mercredi 15h';
    const book = await submit(app, '/biens/1', `value="${slot}"`, {});
    const states = (await Promise.all([book(), book()])).map((to) => to.searchParams.get('etat'));
    assert.equal(states.filter((state) => state === 'reserve').length, 1, `${states}`);
    assert.ok(states.every((state) => ['reserve', 'pris', 'busy'].includes(state)), `${states}`);
    assert.equal((await sql`SELECT count(*)::int AS n FROM visit_bookings`)[0].n, 1);
    const page = await app.page('/biens/1?etat=reserve');
    assert.ok(page.includes('Visite réservée') && !page.includes(`value="${slot}"`));
    // Somebody cancels in another way than through this application.
    await isHit('/biens/1', 'available_slots:1');
    await shown(sql`DELETE FROM visit_bookings`, '/biens/1', (page) => page.includes(`value="${slot}"`));
  });

  /** What the catalogue says: React writes comments between texts. */
  const catalogue = async () => (await app.page('/catalogue')).replaceAll('<!-- -->', '');
  const isShown = (page, price) => page.includes(` : ${francs(price)}`) && page.includes(`Jusqu’à ${francs(price)}`);
  const priceOf = async () => (await sql`SELECT price FROM properties WHERE id = 1`)[0].price;
  /** Whether somebody waits for a table that is locked. */
  const waits = async () => (await sql`SELECT count(*)::int AS n FROM pg_locks WHERE NOT granted`)[0].n > 0;

  /** Whether the page comes without a table that is locked. */
  function comes(page) {
    let has = false;
    page.finally(() => (has = true)).catch(() => {});
    return until(async () => (has ? 'yes' : (await waits()) && 'no'), 'the page, or a read').then((word) => word === 'yes');
  }

  /** Runs the work while nobody can read these tables. */
  async function locked(tables, work) {
    const held = await sql.reserve();
    try {
      await held`BEGIN`;
      await held.unsafe(`LOCK TABLE ${tables} IN ACCESS EXCLUSIVE MODE`);
      return await work(async () => {
        await held`COMMIT`;
      });
    } finally {
      await held`COMMIT`;
      held.release();
    }
  }
  /** Next keeps the catalogue: it comes while the tables cannot be read. */
  const isKept = () => until(() => locked('properties, visit_bookings', () => comes(catalogue())), 'Next keeps the catalogue');

  test('a page that Next keeps shows the new price behind the message of crieur', async () => {
    await sql`UPDATE properties SET price = 900000 WHERE id = 1`;
    const took = [];
    for (let i = 0; i < 5; i++) {
      const price = (await priceOf()) + 1;
      await until(async () => isShown(await catalogue(), price - 1), 'the price before');
      await isKept();
      took.push(await shown(sql`UPDATE properties SET price = ${price} WHERE id = 1`, '/catalogue', (page) => isShown(page.replaceAll('<!-- -->', ''), price)));
    }
    console.log(`COMMIT to page that Next keeps, by crieur's webhook, ${name}, cacheComponents: ${mode}: ${took.join(', ')} ms`);
    assert.ok(cache.hook.statuses.every((status) => status === 200), `${cache.hook.statuses}`);
  });

  test('a page that was rendered across the change is right behind the echo', async () => {
    const { hook } = cache;
    // The echoes of older changes are over, so that the next message is that of the change.
    let [count, since] = [hook.done, performance.now()];
    await until(() => {
      if (hook.done !== count) [count, since] = [hook.done, performance.now()];
      return performance.now() - since > 2_000;
    }, 'crieur has nothing to post');
    const old = (await priceOf()) + 1;
    const { slow, ms, isKeptOld } = await locked('visit_bookings', async (unlock) => {
      await sql`UPDATE properties SET price = ${old} WHERE id = 1`;
      let slow;
      // The second function has read the price, and waits at that table.
      await until(async () => !(await comes((slow = catalogue()))), 'the render has begun');
      await until(() => hook.done > count, 'crieur has posted the first change');
      const before = hook.done;
      await sql`UPDATE properties SET price = ${old + 1} WHERE id = 1`;
      await until(() => hook.done > before, 'crieur has posted the second');
      await unlock();
      await slow;
      const isKeptOld = !isShown(await catalogue(), old + 1);
      const { ms } = await timed(() => until(async () => isShown(await catalogue(), old + 1), 'the new price'));
      return { slow, ms, isKeptOld };
    });
    assert.ok(!isShown(await slow, old + 1), 'this visitor came before the change');
    console.log(`a render across the change: Next ${isKeptOld ? `kept it, and the echo corrected it after ${Math.round(ms)} ms` : 'did not keep it'}, ${name}, cacheComponents: ${mode}`);
    await isKept();
    assert.ok(isShown(await catalogue(), old + 1), 'and stays right');
  });

  test('without the cache the pages come from the database, nobody pays, and all of it comes back', async () => {
    await isHit('/biens/1', 'properties:detail:1');
    const pay = await submit(app, '/baux/1', 'name="period"', { period: '2026-02' });
    await cache.stop();
    const price = 700_000 + Math.floor(Math.random() * 99_999);
    await sql`UPDATE properties SET price = ${price} WHERE id = 1`;
    const took = [];
    for (const path of ['/biens/1', '/', '/ville/Dakar', '/biens/1']) {
      const { value: page, ms } = await timed(() => app.page(path));
      assert.ok(page.includes(francs(price)), `${path} is served from the database`);
      took.push(Math.round(ms));
    }
    console.log(`pages without the cache, ${name}, cacheComponents: ${mode}: ${took.join(', ')} ms`);
    assert.equal((await pay()).searchParams.get('etat'), 'unavailable');
    assert.equal((await sql`SELECT count(*)::int AS n FROM rental_payments WHERE period = '2026-02'`)[0].n, 0);
    assert.ok((await app.page('/baux/1?etat=unavailable')).includes('rien n’a été enregistré'));

    await cache.again();
    await isHit('/biens/1', 'properties:detail:1');
    await shown(sql`UPDATE properties SET price = price + 1 WHERE id = 1`, '/biens/1', (page) => page.includes(francs(price + 1)));
    assert.equal((await pay()).searchParams.get('etat'), 'paye');
    assert.doesNotMatch(app.said, /unhandled|⨯/i);
  });
}
