// A tier in the memory of this process, in front of the cache: for a daemon whose cache has `publish`. Off unless this is used.

import { createCache } from './cache.js';
import { Feed, type Subscriber } from './feed.js';
import { teller } from './small.js';
import type { Cache, CacheEvent, CacheOptions, Fetcher, MemoryEvent, Read, ReadOptions } from './types.js';

export type { MemoryEvent, Subscriber };

/** How the tier behaves. */
export interface MemoryOptions {
  /** A client of ioredis that does nothing else. It is closed with the cache. */
  subscriber: Subscriber;
  /** The slot of the daemon, or of each daemon that deletes keys of this cache. */
  slot: string | readonly string[];
  /** `publish` of the cache in the daemon. `'crieur:keys'`. */
  channel?: string;
  /** No value is served longer after its key was deleted in the cache. More than twice `cache.heartbeat`. 5,000. */
  boundMs?: number;
  /** No value is kept longer, whatever its TTL is. 60. */
  seconds?: number;
  /** The texts and keys that are kept, at most. 16 MiB. */
  maxBytes?: number;
}

/** The tier at this moment. */
export interface MemoryStats {
  /** Whether it serves now. */
  live: boolean;
  entries: number;
  bytes: number;
  hits: number;
  flushes: number;
}

/** A cache with a tier in memory. */
export interface MemoryCache<T extends string> extends Cache<T> {
  memory(): MemoryStats;
}

/** The options of a cache, and those of the tier. */
export type MemoryCacheOptions<T extends string> = Omit<CacheOptions<T>, 'on'> & {
  memory: MemoryOptions;
  /** Is told what happens. What it throws changes nothing. */
  on?: (event: CacheEvent | MemoryEvent) => void;
};

interface Entry {
  text: string;
  until: number;
  bytes: number;
}

/** A read that may store what it brings. */
interface Ticket {
  isVoid: boolean;
}

/** What an entry costs beside its texts. */
const ENTRY_BYTES = 100;

/** Texts by key, the least lately used first, and who is about to bring one. */
class Shelf {
  readonly #maxBytes: number;
  readonly #entries = new Map<string, Entry>();
  readonly #tickets = new Map<string, Set<Ticket>>();
  bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get size() {
    return this.#entries.size;
  }

  get(key: string): string | undefined {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#drop(key);
    if (entry.until <= performance.now()) return;
    this.#put(key, entry);
    return entry.text;
  }

  #put(key: string, entry: Entry) {
    this.#entries.set(key, entry);
    this.bytes += entry.bytes;
  }

  #drop(key: string) {
    this.bytes -= this.#entries.get(key)?.bytes ?? 0;
    this.#entries.delete(key);
  }

  /** Taken before the cache is asked: a delete that is heard between the question and the store voids it. */
  take(key: string): Ticket {
    const ticket = { isVoid: false };
    const others = this.#tickets.get(key);
    if (others) others.add(ticket);
    else this.#tickets.set(key, new Set([ticket]));
    return ticket;
  }

  give(key: string, ticket: Ticket) {
    const others = this.#tickets.get(key);
    others?.delete(ticket);
    if (!others?.size) this.#tickets.delete(key);
  }

  store(key: string, text: string, seconds: number) {
    const bytes = 2 * (key.length + text.length) + ENTRY_BYTES;
    this.#drop(key);
    if (bytes > this.#maxBytes) return;
    this.#put(key, { text, bytes, until: performance.now() + seconds * 1000 });
    for (const oldest of this.#entries.keys()) {
      if (this.bytes <= this.#maxBytes) break;
      this.#drop(oldest);
    }
  }

  forget(key: string) {
    this.#drop(key);
    for (const ticket of this.#tickets.get(key) ?? []) ticket.isVoid = true;
  }

  clear() {
    this.#entries.clear();
    this.bytes = 0;
    for (const tickets of this.#tickets.values()) for (const ticket of tickets) ticket.isVoid = true;
  }
}

/** Makes a cache with a tier in memory. Without a store there is no cache, and nothing in memory either. */
export function createMemoryCache<T extends string = never>(options: MemoryCacheOptions<T>): MemoryCache<T> {
  const { memory, ...rest } = options;
  const cache = createCache<T>(rest as CacheOptions<T>);
  const { subscriber, slot, channel = 'crieur:keys', boundMs = 5_000, seconds: most = 60, maxBytes = 16 * 1024 * 1024 } = memory;
  const slots = [slot].flat();
  if (!slots.length || slots.some((name) => !name)) throw TypeError('memory.slot: name the slot of the daemon');
  if (!(boundMs > 0)) throw TypeError(`memory.boundMs ${boundMs}: no positive number`);
  const { store, namespace, codec = { encode: JSON.stringify, decode: JSON.parse } } = options;
  const tell = teller(options.on);
  const shelf = new Shelf(maxBytes);
  let hits = 0;
  let flushes = 0;
  const feed =
    store &&
    new Feed({
      subscriber, store, channel, slots, boundMs,
      forget: (key) => shelf.forget(key),
      flush(why) {
        shelf.clear();
        flushes++;
        tell({ type: 'flush', why });
      },
    });
  const isLive = () => feed !== null && feed.isLive();
  const fullKey = (key: string, space = namespace) => (space ? `${space}:${key}` : key);

  /** Seconds that a value may stand in memory. */
  function secondsOf(ttl: T | number | undefined = options.ttl as T | number | undefined): number {
    const given = typeof ttl === 'string' ? (options.ttls as any)?.[ttl] : ttl;
    return Math.min(most, typeof given === 'number' ? given : most);
  }

  function keep(key: string, value: unknown, ttl: T | number | undefined) {
    try {
      const text = codec.encode(value);
      if (typeof text === 'string') shelf.store(key, text, secondsOf(ttl));
    } catch {
      // What has no text is not kept: the cache has said so.
    }
  }

  async function read<V>(name: string, fetcher: Fetcher<V>, given: ReadOptions<T, V> = {}): Promise<Read<V>> {
    const start = performance.now();
    const key = fullKey(name, given.namespace);
    if (!isLive()) return cache.read(name, fetcher, given);
    const text = shelf.get(key);
    if (text !== undefined) {
      hits++;
      tell({ type: 'memory', key, ms: performance.now() - start });
      return { value: codec.decode(text) as V, from: 'memory' };
    }
    const ticket = shelf.take(key);
    try {
      let isWanted = true;
      const { storeIf } = given;
      const asked = storeIf ? { ...given, storeIf: (value: V) => (isWanted = storeIf(value)) } : given;
      const found = await cache.read(name, fetcher, asked);
      const isKept = found.from === 'hit' || found.from === 'joined' || (found.from === 'miss' && isWanted);
      if (isKept && !ticket.isVoid && isLive()) keep(key, found.value, given.ttl);
      return found;
    } finally {
      shelf.give(key, ticket);
    }
  }

  return {
    ...cache,
    read,
    getOrSet: async (...args) => (await read(...args)).value,
    async invalidate(names, space) {
      const forget = () => names.forEach((name) => shelf.forget(fullKey(name, space)));
      // Behind the delete once more, for what was read before it and stored meanwhile.
      forget();
      try {
        return await cache.invalidate(names, space);
      } finally {
        forget();
      }
    },
    metrics: () =>
      Object.entries({ hits, flushes })
        .map(([name, n]) => `# TYPE crieur_cache_memory_${name}_total counter\ncrieur_cache_memory_${name}_total ${n}\n`)
        .reduce((all, text) => all + text, cache.metrics()),
    memory: () => ({ live: isLive(), entries: shelf.size, bytes: shelf.bytes, hits, flushes }),
    async close() {
      feed?.close();
      await cache.close();
    },
  };
}
