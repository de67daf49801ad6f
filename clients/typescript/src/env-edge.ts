// The strategy's names, by the environment, where there are no sockets: over Upstash's REST alone.

import { environment } from './env-core.js';
import { restStore } from './rest.js';
import type { Store } from './types.js';

export { TTLS, type Kind } from './env-core.js';

const names = environment(
  (place) =>
    'rest' in place
      ? async (): Promise<Store> => {
          const { Redis } = await import('@upstash/redis');
          return restStore(Redis, place.rest);
        }
      : undefined,
  () => 'Set UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN; REDIS_URL needs sockets, which this runtime does not have.',
);

export const {
  getOrSetCache, invalidateCacheBatch, withLock, acquireLock, releaseLock,
  cacheStats, cacheMetrics, testConnection, closeCache,
} = names;
