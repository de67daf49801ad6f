// The tier in memory with crieur and a PostgreSQL behind it: what the daemon publishes is what the reader takes.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test as every } from 'node:test';
import { fileURLToPath } from 'node:url';
import { fromIoredis } from '../../dist/ioredis.js';
import { createMemoryCache } from '../../dist/memory.js';
import { connect, startServer } from '../parts/servers.mjs';
import { timed, until } from '../parts/waiting.mjs';
import { crieur, database, endWorld, example, missing, reference } from './world.mjs';

const absent = missing();
if (absent.length) {
  console.error(absent.join('\n'));
  process.exit(1);
}

const published = reference('cache-keys').includes('`cache.publish`');
const test = published ? every : (name) => every(name, { skip: 'this crieur has no cache.publish' }, () => {});

const here = fileURLToPath(new URL('memory', import.meta.url));
const BOUND_MS = 2_000;
let server, sql, env, daemon, cache;
const events = [];
before(async () => {
  if (!published) return;
  server = await startServer('valkey');
  let url;
  ({ sql, url } = await database(example, join(here, 'schema.sql')));
  await sql`INSERT INTO lignes SELECT 'n' || i, 0 FROM generate_series(1, 5) i`;
  env = { DATABASE_URL: url, REDIS_URL: `redis://127.0.0.1:${server.port}` };
  daemon = await crieur('memoire', env, here);
  cache = createMemoryCache({
    store: fromIoredis(connect('ioredis6', server.port, { maxRetriesPerRequest: 0 })),
    on: (event) => events.push(event),
    memory: { subscriber: connect('ioredis6', server.port, { retryStrategy: () => 20 }), slot: 'memoire', boundMs: BOUND_MS },
  });
});
after(async () => {
  await cache?.close();
  await endWorld();
  await server?.stop();
});

const read = (name) => cache.read(`ligne:${name}`, async () => (await sql`SELECT version FROM lignes WHERE name = ${name}`)[0].version);
const change = async (name) => (await sql`UPDATE lignes SET version = version + 1 WHERE name = ${name} RETURNING version`)[0].version;
const isKept = (name) => until(async () => (await read(name)).from === 'memory', `${name} is in memory`);
const shows = (name, version) => until(async () => (await read(name)).value === version, `${name} is ${version}`);

test('a change is heard, and the row comes from memory again', async () => {
  const took = [];
  for (let i = 0; i < 10; i++) {
    await isKept('n1');
    const version = await change('n1');
    const { ms } = await timed(() => shows('n1', version));
    took.push(Math.round(ms));
  }
  await isKept('n1');
  console.log(`COMMIT to memory: ${took.join(', ')} ms`);
});

test('a key that the cache held no more is heard of, too', async () => {
  await isKept('n2');
  await server.admin.del('ligne:n2');
  assert.equal((await read('n2')).from, 'memory');
  await shows('n2', await change('n2'));
});

test('many keys in one transaction, and keys that were read meanwhile', async () => {
  for (let round = 0; round < 5; round++) {
    for (const i of [1, 2, 3, 4, 5]) await isKept(`n${i}`);
    await sql`UPDATE lignes SET version = ${100 + round}`;
    for (const i of [1, 2, 3, 4, 5]) await shows(`n${i}`, 100 + round);
  }
});

test('the mark names what was published', async () => {
  await until(async () => {
    const { published } = JSON.parse(await server.admin.get('crieur:mark:memoire'));
    return typeof published.epoch === 'string' && Number.isSafeInteger(published.n);
  }, 'a mark with a message');
  assert.ok(!events.some(({ type, why }) => type === 'flush' && ['number', 'unreadable'].includes(why)), JSON.stringify(events.filter(({ type }) => type === 'flush')));
});

test('without the daemon nothing is served beyond the bound, and a change meanwhile is seen when it is back', async () => {
  await isKept('n3');
  await daemon.stop();
  const gone = performance.now();
  let last = gone;
  await until(async () => {
    const begun = performance.now();
    if ((await read('n3')).from === 'memory') last = begun;
    return !cache.memory().live;
  }, 'the tier is off');
  assert.ok(last - gone <= BOUND_MS, `${last - gone} ms`);
  const version = await change('n3');
  daemon = await crieur('memoire', env, here, { isNew: false });
  await shows('n3', version);
  await isKept('n3');
  assert.equal((await read('n3')).value, version);
});

test('a subscription that breaks is one that forgets', async () => {
  await isKept('n4');
  const before = events.length;
  await server.admin.client('KILL', 'TYPE', 'pubsub');
  await until(() => events.slice(before).some(({ why }) => why === 'connection'), 'everything is forgotten');
  await shows('n4', await change('n4'));
  await isKept('n4');
});
