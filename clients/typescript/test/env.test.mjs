// The strategy's names, by the environment, each case in a process of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import { startServer } from './parts/servers.mjs';
import { startRest } from './parts/rest.mjs';

const run = promisify(execFile);
let server, rest;
before(async () => {
  server = await startServer('valkey');
  rest = await startRest(server.port);
});
after(async () => {
  await rest.stop();
  await server.stop();
});
beforeEach(() => server.admin.flushall());

/** Runs a script over `./env` with these variables alone, and gives what it printed. */
async function script(variables, text, file = 'env') {
  const code = `import * as env from '${new URL(`../dist/${file}.js`, import.meta.url)}';
    const { getOrSetCache, invalidateCacheBatch, withLock, acquireLock, releaseLock, cacheStats, testConnection, closeCache } = env;
    ${text}
    await closeCache();`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], { env: { PATH: process.env.PATH, ...variables } });
  return stdout.trim().split('\n').filter(Boolean);
}
const tcp = () => ({ REDIS_URL: `redis://127.0.0.1:${server.port}` });
const upstash = () => ({ UPSTASH_REDIS_REST_URL: rest.url, UPSTASH_REDIS_REST_TOKEN: rest.token });
const vercel = () => ({ KV_REST_API_URL: rest.url, KV_REST_API_TOKEN: rest.token });
const get = "console.log(await getOrSetCache('all_public', () => [1], { ttl: 'list', namespace: 'properties' }));";

test('the order of the environment', async () => {
  const dead = 'redis://127.0.0.1:1';
  for (const variables of [
    tcp(), upstash(), vercel(), { ...upstash(), REDIS_URL: dead }, { ...vercel(), REDIS_URL: dead },
    { ...tcp(), UPSTASH_REDIS_REST_URL: 'http://127.0.0.1:1' },
  ]) {
    await server.admin.flushall();
    const began = Date.now();
    await script(variables, get);
    assert.equal(await server.admin.get('properties:all_public'), 'V[1]', JSON.stringify(Object.keys(variables)));
    // Of the 300 s some have passed, at most those since the script began.
    const ttl = await server.admin.ttl('properties:all_public');
    assert.ok(ttl <= 300 && ttl + Math.ceil((Date.now() - began) / 1000) >= 300, `${ttl}`);
  }
  await server.admin.flushall();
  await script(upstash(), get, 'env-edge');
  assert.equal(await server.admin.get('properties:all_public'), 'V[1]');
  await server.admin.flushall();
  const [, step] = await script(tcp(), `${get} console.log((await testConnection()).steps[0].error)`, 'env-edge');
  assert.match(step, /UPSTASH_REDIS_REST_URL/);
  assert.equal(await server.admin.dbsize(), 0, 'no sockets at the edge');
});

test('switched off: the row, and not a byte', async () => {
  for (const off of [{ CRIEUR_CACHE: 'off' }, { DISABLE_REDIS: 'true' }, { NEXT_PHASE: 'phase-production-build' }]) {
    await server.admin.config('RESETSTAT');
    const [line] = await script({ ...tcp(), ...off }, get);
    assert.equal(line, '[ 1 ]');
    const stats = await server.admin.info('stats');
    assert.match(stats, /total_connections_received:0/, JSON.stringify(off));
  }
  const lines = await script({}, `${get} console.log((await withLock('a', () => 1)).reason);
    console.log((await testConnection()).steps[0].error);`);
  assert.deepEqual(lines.slice(0, 2), ['[ 1 ]', 'unavailable']);
  assert.match(lines[2], /UPSTASH_REDIS_REST_URL/);
});

test('the lines of the log, and silence without them', async () => {
  const text = `
    await getOrSetCache('detail:123', () => 'secret value', { ttl: 'detail', namespace: 'properties' });
    await getOrSetCache('detail:123', () => 0, { namespace: 'properties' });
    await withLock('payment:lease456', () => 1);`;
  for (const where of [tcp(), upstash()]) {
    await server.admin.flushall();
    const lines = await script({ ...where, CRIEUR_CACHE_LOG: '1' }, text);
    assert.equal(lines.length, 5, lines.join('\n'));
    assert.match(lines[0], /^\[CACHE\] MISS  \| properties:detail:123 \| \d+ms \(DB\)$/);
    assert.equal(lines[1], '[CACHE] SET   | properties:detail:123 | TTL 3600s');
    assert.match(lines[2], /^\[CACHE\] HIT   \| properties:detail:123 \| \d+ms$/);
    assert.equal(lines[3], '[LOCK]  ACQUIRED | payment:lease456 | 10s');
    assert.equal(lines[4], '[LOCK]  RELEASED | payment:lease456');
  }
  for (const quiet of [{}, { NODE_ENV: 'production' }]) assert.deepEqual(await script({ ...tcp(), ...quiet }, text), []);
});

test('the strategy\'s locks, and a name that is refused', async () => {
  const lines = await script(tcp(), `
    const lock = await acquireLock('a', { expireSeconds: 10 });
    console.log(!!lock, await acquireLock('a'));
    await releaseLock('a').catch((error) => console.log(error.name));
    console.log(await acquireLock('a'), await releaseLock(lock), await releaseLock(await acquireLock('a')));
    console.log(await invalidateCacheBatch(['x'], 'properties'), (await cacheStats()).hitRate);`);
  assert.deepEqual(lines, ['true null', 'TypeError', 'null true true', 'true 0']);
});

test('testConnection says which step failed and what to do', async () => {
  for (const where of [tcp(), upstash()]) {
    const [ok] = await script(where, 'console.log((await testConnection()).ok)');
    assert.equal(ok, 'true');
  }
  const [text] = await script({ ...upstash(), UPSTASH_REDIS_REST_TOKEN: 'wrong' }, 'console.log(JSON.stringify(await testConnection()))');
  const { ok, steps } = JSON.parse(text);
  assert.equal(ok, false);
  assert.match(steps[0].error, /WRONGPASS.*token/s);
  const [no] = await script({ REDIS_URL: 'redis://127.0.0.1:1' }, 'console.log(JSON.stringify(await testConnection()))');
  assert.match(JSON.parse(no).steps[0].error, /ECONNREFUSED.*Is the server there/);
});
