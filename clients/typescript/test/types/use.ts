// What a user writes, and what the types refuse. Compiled by test/package.test.mjs, never run.

import { Redis } from 'ioredis';
import { createCache, createLocks, consoleLog, LockError, type Cache, type CacheEvent, type Lock, type LockResult, type Probe, type Read, type Stats, type Store } from 'crieur-cache';
import { fromIoredis } from 'crieur-cache/ioredis';
import { createMemoryCache, type MemoryCache, type MemoryStats } from 'crieur-cache/memory';
import { tagsRoute } from 'crieur-cache/next';
import { createNextHandler, type NextHandler } from 'crieur-cache/next-handler';
import { getOrSetCache, releaseLock, acquireLock, withLock, cacheStats, testConnection, invalidateCacheBatch } from 'crieur-cache/env';

const store: Store = fromIoredis(new Redis(6379, '127.0.0.1', { lazyConnect: true }), { timeout: 300 });
const cache = createCache({ store, namespace: 'properties', ttls: { list: 300, detail: 3600 }, ttl: 'detail', on: consoleLog });
const typed: Cache<'list' | 'detail'> = cache;
const n: Promise<number> = cache.getOrSet('a', async ({ signal, fetch }) => { await fetch('http://x', { signal }); return 1; }, { ttl: 'list', storeIf: (value) => value > 0 });
const r: Promise<Read<string>> = typed.read('a', () => 'x', { ttl: 60, grace: 5, namespace: 'x' });
// @ts-expect-error a name that is not in the table
cache.getOrSet('a', () => 1, { ttl: 'lost' });
// @ts-expect-error a default that is not in the table
createCache({ store: null, ttls: { list: 1 }, ttl: 'detail' });
const none = createCache({ store: null });
// @ts-expect-error there is no table
none.getOrSet('a', () => 1, { ttl: 'list' });
const stats: Stats = cache.stats(); const probe: Promise<Probe> = cache.test(); const ok: Promise<boolean> = cache.invalidate(['a']);
const locks = createLocks({ store, on: consoleLog });
async function work() {
  await using lock = await locks.acquire('a', { expireSeconds: 1, retries: 2, signal: AbortSignal.timeout(5) });
  const fence: number | undefined = lock?.fence;
  const result: LockResult<{ id: string }> = await locks.withLock('a', async (l: Lock) => ({ id: l.token }));
  if (result.success) { const id: string = result.data.id; return [id, fence]; }
  // @ts-expect-error there is no data without a look
  result.fence;
  return [result.error, result.reason, result.data?.id];
}
// @ts-expect-error a name is refused
releaseLock('name');
getOrSetCache('a', () => 1, { ttl: 'slots', namespace: 'x' });
// @ts-expect-error not of the strategy's table
getOrSetCache('a', () => 1, { ttl: 'sloths' });
function seen(event: CacheEvent) { if (event.type === 'set') return event.bytes; if (event.type === 'hit') return event.ms; return undefined; }
const error = new LockError('busy', 'x'); const reason: 'busy' | 'unavailable' | 'lost' | 'failed' = error.reason;
const POST: (request: Request) => Promise<Response> = tagsRoute({ secret: process.env.SECRET, revalidateTag: (tag: string, profile: string | { expire?: number }) => { [tag, profile]; } });
const handler: NextHandler = createNextHandler({ store: () => store, prefix: 'x', on: consoleLog });
const inMemory: MemoryCache<'list'> = createMemoryCache({ store, ttls: { list: 300 }, on: consoleLog, memory: { subscriber: new Redis(), slot: 'crieur', boundMs: 5_000 } });
const figures: MemoryStats = inMemory.memory();
export { POST, handler, figures, n, r, stats, probe, ok, work, acquireLock, withLock, cacheStats, testConnection, invalidateCacheBatch, seen, reason };
