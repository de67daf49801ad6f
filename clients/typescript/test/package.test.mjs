// What is packed: the scripts are those of the repository, the exports resolve as they should, and nothing is too large.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import * as lua from '../dist/lua.js';
import { repository } from './parts/servers.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));

test('the scripts are those of lua/', () => {
  const files = {
    TAKE: 'take', STORE_IN_KEY: 'store-in-key', STORE_BESIDE: 'store-beside', GIVE_BACK: 'give-back',
    LOCK_TAKE: 'lock-take', LOCK_RENEW: 'lock-renew',
  };
  assert.deepEqual(Object.keys(lua).sort(), Object.keys(files).sort());
  for (const [name, file] of Object.entries(files)) {
    const lines = readFileSync(join(repository, `lua/${file}.lua`), 'utf8').split('\n').map((line) => line.trim());
    assert.equal(lua[name], lines.filter((line) => line && !line.startsWith('--')).join(' '), file);
  }
});

test('the size is within its limits', () => {
  console.log(execFileSync(process.execPath, ['scripts/size.mjs'], { cwd: here, encoding: 'utf8' }));
});

test('the edge gets no ioredis and nothing of Node', async () => {
  const cases = ['edge-light', 'workerd', 'browser'].flatMap((condition) => ['env', 'next'].map((name) => [condition, name]));
  for (const [condition, name] of cases) {
    const { outputFiles } = await build({
      stdin: { contents: `export * from 'crieur-cache/${name}'`, resolveDir: here },
      bundle: true, format: 'esm', write: false, conditions: [condition, 'import'], platform: 'neutral',
      external: ['@upstash/redis'],
    });
    assert.doesNotMatch(outputFiles[0].text, /['"]ioredis['"]|['"]node:/, `${condition} ${name}`);
  }
});

test('the core, ./ioredis and ./env load without any client', () => {
  // A folder without node_modules above it: the files are loaded by their paths.
  const script = `for (const name of ['index', 'ioredis', 'env', 'env-edge', 'next', 'next-handler', 'memory']) await import(${JSON.stringify(here)} + 'dist/' + name + '.js')
    .then((m) => console.log(name, Object.keys(m).sort().join()));`;
  const blocked = `data:text/javascript,export async function resolve(s,c,n){if(/^(ioredis|@upstash|next)/.test(s))throw new Error('blocked '+s);return n(s,c)}`;
  const register = `data:text/javascript,import{register}from'node:module';register(${JSON.stringify(blocked)})`;
  const out = execFileSync(process.execPath, ['--import', register, '--input-type=module', '-e', script], { encoding: 'utf8' });
  assert.match(out, /index LockError,consoleLog,createCache,createLocks/);
  assert.match(out, /ioredis fromIoredis/);
  assert.match(out, /next tagsRoute/);
  assert.match(out, /next-handler createNextHandler/);
  assert.match(out, /memory createMemoryCache/);
  for (const name of ['getOrSetCache', 'invalidateCacheBatch', 'withLock', 'acquireLock', 'releaseLock', 'cacheStats', 'testConnection'])
    assert.equal(out.split(name).length - 1, 2, name);
});

test('the types are strict, and refuse what they should', () => {
  const options = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--target', 'es2022', '--types', 'node', '--lib', 'es2022,dom'];
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', ...options, '--module', 'nodenext', 'test/types/use.ts'], {
    cwd: here, encoding: 'utf8', stdio: ['ignore', 'inherit', 'inherit'],
  });
});
