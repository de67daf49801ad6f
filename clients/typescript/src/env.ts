// The strategy's names, by the environment, in Node: over Upstash's REST or over TCP.

import { environment } from './env-core.js';
import { fromIoredis } from './ioredis.js';
import { restStore } from './rest.js';
import type { Store } from './types.js';

export { TTLS, type Kind } from './env-core.js';

// Bundlers leave these two imports alone, because only one of the packages need be installed.
const upstash = () => import(/* webpackIgnore: true */ /* turbopackIgnore: true */ /* @vite-ignore */ '@upstash/redis');
const ioredis = () => import(/* webpackIgnore: true */ /* turbopackIgnore: true */ /* @vite-ignore */ 'ioredis');

async function installed<M>(load: () => Promise<M>, variable: string, name: string): Promise<M> {
  try {
    return await load();
  } catch (error) {
    throw new Error(`${variable} is set, but ${name} cannot be loaded: npm install ${name}`, { cause: error });
  }
}

const names = environment(
  (place) => async (): Promise<Store> => {
    if ('rest' in place) {
      const { Redis } = await installed(upstash, 'a REST address', '@upstash/redis');
      return restStore(Redis, place.rest);
    }
    const { Redis } = await installed(ioredis, 'REDIS_URL', 'ioredis');
    const client = new Redis(place.tcp, {
      // Nothing is sent twice, and a silent address is given up on.
      maxRetriesPerRequest: 0,
      connectTimeout: 2_000,
      retryStrategy: (times: number) => Math.min(times * 50, 2_000),
    });
    return fromIoredis(client);
  },
  (env) =>
    env.REDIS_URL || env.UPSTASH_REDIS_REST_URL || env.KV_REST_API_URL
      ? 'The cache is switched off (CRIEUR_CACHE, DISABLE_REDIS, NEXT_PHASE), or a REST address has no token.'
      : 'Set UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, or REDIS_URL.',
);

export const {
  getOrSetCache, invalidateCacheBatch, withLock, acquireLock, releaseLock,
  cacheStats, cacheMetrics, testConnection, closeCache,
} = names;
