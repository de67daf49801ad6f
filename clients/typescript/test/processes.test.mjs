// Twenty callers in four processes make one fetch.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { startServer } from './parts/servers.mjs';

let server;
before(async () => (server = await startServer('valkey')));
after(() => server.stop());

test('twenty callers in four processes make one fetch', async () => {
  const script = `
    import Redis from 'ioredis';
    import { createCache } from '${new URL('../dist/index.js', import.meta.url)}';
    import { fromIoredis } from '${new URL('../dist/ioredis.js', import.meta.url)}';
    const client = new Redis(${server.port}, '127.0.0.1');
    const cache = createCache({ store: fromIoredis(client) });
    await client.ping();
    console.log('ready');
    await new Promise((go) => process.stdin.once('data', go));
    let runs = 0;
    const reads = await Promise.all(Array.from({ length: 5 }, () => cache.getOrSet('k', async () => {
      runs++;
      await new Promise((go) => setTimeout(go, 100));
      return 'row';
    })));
    console.log(JSON.stringify([runs, reads]));
    await cache.close();
    process.exit();`;
  const children = Array.from({ length: 4 }, () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: new URL('..', import.meta.url) });
    const told = { child, out: '' };
    told.ready = new Promise((resolve) => {
      child.stdout.on('data', (text) => {
        told.out += text;
        if (told.out.includes('ready')) resolve();
      });
    });
    child.stderr.on('data', (text) => (told.out += text));
    told.ended = new Promise((resolve) => child.once('exit', resolve));
    return told;
  });
  await Promise.all(children.map(({ ready, ended }) => Promise.race([ready, ended])));
  for (const { child } of children) child.stdin.write('go\n');
  let runs = 0;
  for (const told of children) {
    await told.ended;
    const [mine, reads] = JSON.parse(told.out.trim().split('\n').at(-1));
    runs += mine;
    assert.deepEqual(reads, Array(5).fill('row'));
  }
  assert.equal(runs, 1);
});
