// The strategy's names over one cache that is made when it is first used. What differs by runtime is how a store is opened.

import { createCache } from './cache.js';
import { createLocks } from './locks.js';
import { consoleLog } from './log.js';
import type {
  Cache, Fetcher, Lock, LockOptions, LockResult, Locks, Probe, ReadOptions, Stats, Store,
} from './types.js';

/** Seconds by the kind of data. */
export const TTLS = {
  list: 300,
  detail: 3600,
  dashboard: 1800,
  search: 600,
  profile: 3600,
  slots: 120,
  notifications: 60,
};

/** A name of the table. */
export type Kind = keyof typeof TTLS;

type Variables = Record<string, string | undefined>;

/** Where the environment says that the cache is. */
export type Place = { rest: { url: string; token: string } } | { tcp: string } | undefined;

/** `process` may not exist, as a bundler may replace `process.env.NAME` and nothing else. */
function variables(): Variables {
  return (globalThis as { process?: { env?: Variables } }).process?.env ?? {};
}

/** Decides from the environment alone. A URL without its token counts as not there. */
export function placeOf(env: Variables): Place {
  const off = (env.CRIEUR_CACHE ?? '').toLowerCase();
  if (['off', '0', 'false', 'no'].includes(off)) return;
  if (['true', '1'].includes((env.DISABLE_REDIS ?? '').toLowerCase())) return;
  if (env.NEXT_PHASE === 'phase-production-build') return;
  for (const name of ['UPSTASH_REDIS_REST', 'KV_REST_API']) {
    const url = env[`${name}_URL`];
    const token = env[`${name}_TOKEN`];
    if (url && token) return { rest: { url, token } };
  }
  return env.REDIS_URL ? { tcp: env.REDIS_URL } : undefined;
}

/** A store that is opened by its first command. */
function lazy(open: () => Promise<Store>): Store {
  let opened: Promise<Store> | undefined;
  let isClosed = false;
  return {
    async send(...command) {
      // What was still under way at the close opens nothing that nobody would close.
      if (isClosed) throw new Error('the cache was closed');
      return (await (opened ??= open())).send(...command);
    },
    async close() {
      isClosed = true;
      const store = await opened?.catch(() => undefined);
      await store?.close?.();
    },
  };
}

/** What to do when a step of the probe fails. */
const HINTS: [step: RegExp, hint: string][] = [
  [/PING/, 'Is the server there? Are the address and the password or token in the environment right?'],
  [/NX/, 'The protocol needs SET with NX and GET: Redis 7.0, Valkey, or Upstash.'],
  [/EVAL/, 'The protocol needs EVAL, and GET, SET and DEL inside of it: allow them to this user.'],
  [/mark/, 'Does crieur run, with this slot, on this cache?'],
  [/SET|DEL/, 'May this user write? A read-only token cannot. Is the memory of the server full?'],
  [/./, 'May this user run this command on these keys?'],
];

/** All functions of `crieur-cache/env`. `open` answers nothing where this runtime cannot reach such a place. */
export function environment(open: (place: NonNullable<Place>) => (() => Promise<Store>) | undefined, hint: (env: Variables) => string) {
  let made: { cache: Cache<Kind>; locks: Locks } | undefined;

  function instance() {
    if (made) return made;
    const env = variables();
    const place = placeOf(env);
    const opens = place && open(place);
    const store = opens ? lazy(opens) : null;
    const log = env.CRIEUR_CACHE_LOG === '1' ? { on: consoleLog } : {};
    made = { cache: createCache<Kind>({ store, ttls: TTLS, ...log }), locks: createLocks({ store, ...log }) };
    return made;
  }

  return {
    /** The cached value, or that of the fetcher, which is then stored. */
    getOrSetCache: <V>(key: string, fetcher: Fetcher<V>, options?: ReadOptions<Kind, V>): Promise<V> =>
      instance().cache.getOrSet(key, fetcher, options),

    /** Deletes keys after one's own commit. False: the cache is away. */
    invalidateCacheBatch: (keys: string[], namespace?: string): Promise<boolean> =>
      instance().cache.invalidate(keys, namespace),

    /** Runs the work under a lock. */
    withLock: <V>(name: string, work: (lock: Lock) => V | Promise<V>, options?: LockOptions): Promise<LockResult<V>> =>
      instance().locks.withLock(name, work, options),

    /** The lock, or null: somebody else has it. Rejects when nobody knows. */
    acquireLock: (name: string, options?: LockOptions): Promise<Lock | null> => instance().locks.acquire(name, options),

    /** Releases the lock that `acquireLock` gave. A name is refused: it cannot say whose lock it means. */
    async releaseLock(lock: Lock): Promise<boolean> {
      if (typeof lock?.release !== 'function')
        throw new TypeError('releaseLock: give it the lock that acquireLock answered; a name may be of another\'s lock');
      return lock.release();
    },

    /** The counts since the first use. */
    cacheStats: (): Stats => instance().cache.stats(),

    /** The counts as a Prometheus text. */
    cacheMetrics: (): string => instance().cache.metrics(),

    /** Tries each step that the protocol needs, and says of each that fails what to do. Never rejects. */
    async testConnection(): Promise<Probe> {
      const probe = await instance().cache.test();
      for (const step of probe.steps)
        if (step.error) {
          const place = placeOf(variables());
          const isOff = !place || !open(place);
          step.error += `. ${isOff ? hint(variables()) : HINTS.find(([name]) => name.test(step.name))![1]}`;
        }
      return probe;
    },

    /** Closes the connection, so that a script may end. The next use opens another one. */
    async closeCache(): Promise<void> {
      const old = made;
      made = undefined;
      await old?.cache.close();
    },
  };
}
