// The strategy's names, by the environment, in Node: over Upstash's REST or over TCP.

import { environment } from './env-core.js';
import { fromIoredis } from './ioredis.js';
import { restStore } from './rest.js';
import type { Store } from './types.js';

export { TTLS, type Kind } from './env-core.js';

const missing = (variable: string, name: string, cause: unknown) =>
  new Error(`${variable} is set, but ${name} cannot be loaded: npm install ${name}`, { cause });

// Only one of the packages need be installed. Turbopack, and the tracing of files for a deployment, follow an import in `try`:
// what is installed goes along, and what is not is no error. webpack would make an error of it, so it leaves both to Node.
async function upstash() {
  try {
    return await import(/* webpackIgnore: true */ /* turbopackIgnore: false */ /* @vite-ignore */ '@upstash/redis');
  } catch (error) {
    throw missing('a REST address', '@upstash/redis', error);
  }
}

async function ioredis() {
  try {
    return await import(/* webpackIgnore: true */ /* turbopackIgnore: false */ /* @vite-ignore */ 'ioredis');
  } catch (error) {
    throw missing('REDIS_URL', 'ioredis', error);
  }
}

const names = environment(
  (place) => async (): Promise<Store> => {
    if ('rest' in place) {
      const { Redis } = await upstash();
      return restStore(Redis, place.rest);
    }
    const { Redis } = await ioredis();
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
