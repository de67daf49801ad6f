// Readers for the torture test (tests/torture/languages.rs): over ioredis 5 and 6 with their defaults, and over Upstash's
// REST; of each and of each protocol two caches, as two processes would have. Says that it
// is ready, and at SIGTERM ends with the counts, as JSON.

import pg from 'pg';
import Redis6 from 'ioredis';
import Redis5 from 'ioredis5';
import { createCache } from '../../dist/index.js';
import { fromIoredis } from '../../dist/ioredis.js';
import { STORE_BESIDE, STORE_IN_KEY } from '../../dist/lua.js';
import { fromUpstash } from '../../dist/upstash.js';
import { sleep } from './waiting.mjs';

const { postgres, tcp, rest, token, families, mistake } = JSON.parse(process.argv[2]);
const READERS = 3;
const HOLD_MS = 2_000;
// Those who make the mistake hold their row more often, so that it is seen soon.
const HOLDS = mistake ? 50 : 8;

const stores = {
  ioredis5: () => fromIoredis(new Redis5({ host: '127.0.0.1', port: tcp })),
  ioredis6: () => fromIoredis(new Redis6({ host: '127.0.0.1', port: tcp })),
  upstash: () => fromUpstash({ url: rest, token }),
};

/** The mistake that must be seen: a store that does not look whether its lease still stands. */
const careless = (store) => ({
  ...store,
  send(name, script, ...rest) {
    if (script === STORE_IN_KEY) return store.send('SET', rest[1], rest[3], 'EX', rest[4]);
    if (script === STORE_BESIDE) return store.send('SET', rest[1], rest[4], 'EX', rest[5]);
    return store.send(name, script, ...rest);
  },
});

const pool = new pg.Pool({ host: '127.0.0.1', port: postgres, user: 'postgres', database: 'postgres', max: 24 });
// A session that ends is no news: the next query opens another.
pool.on('error', () => {});

const below = (n) => Math.floor(Math.random() * n);
const chance = (percent) => Math.random() * 100 < percent;
let isOver = false;

async function reader(cache, { prefix, members, sql }) {
  while (!isOver) {
    const member = below(chance(50) ? Math.ceil(members / 10) : members);
    try {
      await cache.read(`${prefix}${member}`, async () => {
        const { rows } = await pool.query({ text: sql, values: [`${member}`], rowMode: 'array' });
        if (chance(HOLDS)) await sleep(below(HOLD_MS));
        if (chance(3)) throw new Error('wanted');
        return rows[0][0];
      });
    } catch {
      // The database's error, or the wanted one: neither is stored.
      await sleep(20);
    }
    await sleep(below(10));
  }
}

const text = { encode: (value) => value, decode: (value) => value };
const kinds = [];
const work = [];
for (const [name, open] of Object.entries(stores))
  for (const family of families)
    for (let twin = 0; twin < 2; twin++) {
      const store = mistake ? careless(open()) : open();
      const cache = createCache({ store, protocol: family.protocol, codec: text, ttl: 1_000_000, pauseMs: 50 });
      kinds.push([`${name} ${family.protocol}`, cache]);
      for (let i = 0; i < READERS; i++) work.push(reader(cache, family));
    }

process.once('SIGTERM', async () => {
  isOver = true;
  await Promise.all(work);
  const counts = {};
  for (const [kind, cache] of kinds) {
    counts[kind] ??= {};
    const { hitRate, ...stats } = cache.stats();
    for (const [name, count] of Object.entries(stats)) counts[kind][name] = (counts[kind][name] ?? 0) + count;
    await cache.close();
  }
  await pool.end();
  console.log(JSON.stringify(counts));
});
console.log('ready');
