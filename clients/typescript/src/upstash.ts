// A store over @upstash/redis.

import { Redis } from '@upstash/redis';
import { restStore, type RestOptions } from './rest.js';
import type { Store } from './types.js';

export type { RestOptions };

/** Makes the client itself, so that it sends at most once and says when it gave up. */
export const fromUpstash = (options: RestOptions): Store => restStore(Redis, options);
