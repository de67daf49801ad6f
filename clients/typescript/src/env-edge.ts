// The strategy's names, by the environment, where there are no sockets: over Upstash's REST alone.

import { environment } from './env-core.js';
import { restStore } from './rest.js';
import type { Store } from './types.js';

export { TTLS, type Kind } from './env-core.js';

const names = environment(
  async (place): Promise<Store> => {
    if (!('rest' in place)) throw new Error('REDIS_URL needs Node: this runtime has no sockets; set the REST address');
    const { Redis } = await import('@upstash/redis');
    return restStore(Redis, place.rest);
  },
  () => 'Set UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN.',
);

export const {
  getOrSetCache, invalidateCacheBatch, withLock, acquireLock, releaseLock,
  cacheStats, cacheMetrics, testConnection, closeCache,
} = names;
