// What a hit costs beside a bare GET through the same client, and how many commands a read sends. Needs a build.
//
//   node scripts/bench.mjs [reads]

import { startServer, connect } from '../test/parts/servers.mjs';
import { createCache } from '../dist/index.js';
import { fromIoredis } from '../dist/ioredis.js';

const reads = Number(process.argv[2] ?? 20_000);
const ROUND = 500;
const server = await startServer('valkey');
const client = connect('ioredis6', server.port);
const store = fromIoredis(client);
const cache = createCache({ store });

const sent = [];
const counted = createCache({ store: { ...store, send: (...command) => (sent.push(command[0]), store.send(...command)) } });
await counted.getOrSet('counted', () => 1);
const miss = sent.splice(0).length;
await counted.getOrSet('counted', () => 1);
const hit = sent.length;

const row = Array.from({ length: 20 }, (_, id) => ({ id, city: 'Dakar', price: 150_000, title: 'Appartement à louer' }));
await cache.getOrSet('k', () => row);
const median = (times) => times.sort((a, b) => a - b)[times.length >> 1];
async function round(read, times) {
  for (let i = 0; i < ROUND; i++) {
    const start = performance.now();
    await read();
    times.push(performance.now() - start);
  }
}
// In turns, so that whatever else the machine does meets both.
const bare = [];
const through = [];
const get = async () => JSON.parse((await client.get('k')).slice(1));
const read = () => cache.getOrSet('k', () => row);
await round(get, []);
await round(read, []);
for (let done = 0; done < reads; done += ROUND) {
  await round(get, bare);
  await round(read, through);
}
const ratio = median(through) / median(bare);
console.log(`bare GET and JSON.parse: ${(median(bare) * 1000).toFixed(1)} us · hit: ${(median(through) * 1000).toFixed(1)} us · ratio ${ratio.toFixed(3)}`);
console.log(`commands: hit ${hit}, miss ${miss}`);
await cache.close();
await server.stop();
if (ratio > 1.15 || hit !== 1 || miss > 4) process.exitCode = 1;
