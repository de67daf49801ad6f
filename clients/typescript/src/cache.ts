// The read: who may answer it, who may store, and what is never shared. `docs/guide/readers.md` says why it is exact.

import { asker } from './ask.js';
import { GIVE_BACK, STORE_BESIDE, STORE_IN_KEY, TAKE } from './lua.js';
import { probe } from './probe.js';
import { isDigest, nothing, random, within } from './small.js';
import type { Cache, CacheEvent, CacheOptions, Codec, Fetcher, Read, ReadOptions, Reply } from './types.js';

/** The first pause before another's lease is looked at again, and the longest. */
const NAP_MS = 20;
const NAP_MAX_MS = 200;
/** Without the cache, so long a call waits for a fetch that runs, so that those who come meanwhile share the next. */
const TURN_MS = 200;
/** So often a call joins others before it fetches for itself. */
const JOINS_MAX = 3;

const JSON_CODEC: Codec = { encode: JSON.stringify, decode: JSON.parse };

/** The text of a row; no text where the value is `undefined`. */
type Shared = [text?: string];

/** A fetch that others may join. */
interface Flight {
  /** When its fetcher began, on the clock of this cache; 0 before. */
  begun: number;
  lease?: string;
  /** Nothing: there is nothing to share, or the fetcher threw. */
  shared: Promise<Shared | undefined>;
  settle(shared?: Shared): void;
}

/** What the cache holds: a value or something foreign, and the lease that stands. */
type Seen = [found: unknown, lease: unknown];

/** What the fetcher is called with keeps frameworks from answering a fetch with what was fetched before. */
async function run(fetcher: Fetcher<any>) {
  const { signal } = new AbortController();
  return fetcher({
    signal,
    // What the init leaves open is ours, also where a wrapper passes `undefined` on.
    fetch: (input: any, init) =>
      fetch(input, {
        ...init,
        cache: init?.cache ?? 'no-store',
        signal: init?.signal ?? input.signal ?? signal,
      }),
  });
}

/** Makes a cache. */
export function createCache<T extends string = never>(options: CacheOptions<T>): Cache<T> {
  const { store, protocol = 'key', leaseMs = 10_000, waitMs = 1_000, codec = JSON_CODEC, silence, waitUntil, namespace, ttl: defaultTtl = 300 } = options;
  const ttls: any = options.ttls;
  // On Cloudflare Workers no request may wait for a promise of another one.
  const { share = (globalThis as any).navigator?.userAgent !== 'Cloudflare-Workers' } = options;
  if (protocol === 'plain' && store?.resends)
    throw TypeError('plain: the client may send twice: set maxRetriesPerRequest: 0');
  const letter = protocol === 'key' ? 'V' : '';
  const isBeside = protocol === 'companion';
  const isScript = options.take === 'script';
  const markKey = silence && `crieur:mark:${silence.slot}`;
  /** A call pays at most twice the time of one command. */
  const budget = 2 * (store?.timeout ?? 500);

  /** How often each event came. */
  const count: Record<string, number> = {};
  const times = (type: CacheEvent['type']) => count[type] ?? 0;
  const tell = (event: CacheEvent) => {
    count[event.type] = -~count[event.type]!;
    try {
      (options.on?.(event) as any)?.catch?.(nothing);
    } catch {
      // Whoever listens changes nothing.
    }
  };
  const ask = asker(store, options.pauseAfter ?? 3, options.pauseMs ?? 2_000, tell);
  let clock = 0;
  /** Reads that have a lease, or are about to take one. */
  const flights = new Map<string, Flight>();
  /** The latest fetch of a key without the cache. */
  const rows = new Map<string, Flight>();

  const fullKey = (key: string, space = namespace) => (space ? `${space}:${key}` : key);
  const leaseOf = (key: string) => (isBeside ? `lease:{${key}}` : key);

  /** With the lease in the key, a text is a value or a lease. */
  const sort = (found: any): Seen => (letter && found?.[0] === 'L' ? [null, found] : [found, null]);

  async function read(name: string, fetcher: Fetcher<any>, options: ReadOptions<any, any> = {}): Promise<Read<any>> {
    const start = performance.now();
    const called = ++clock;
    const key = fullKey(name, options.namespace);
    const leaseKey = leaseOf(key);
    const { ttl = defaultTtl } = options;
    const seconds = Math.ceil(typeof ttl === 'number' ? ttl : ttls?.[ttl]);
    if (!(seconds > 0 && seconds < 1e12)) throw TypeError(`ttl ${ttl}: no name in ttls, no positive number`);
    const passed = () => performance.now() - start;

    function done(from: 'hit' | 'miss' | 'joined' | 'bypass', value: unknown): Read<any> {
      tell({ type: from, key, ms: passed() });
      return { value, from };
    }

    function enter(map: Map<string, Flight>): Flight {
      let settle: Flight['settle'] = nothing;
      const shared = new Promise<Shared | undefined>((resolve) => (settle = resolve));
      const flight = { begun: 0, shared, settle };
      if (share) map.set(key, flight);
      return flight;
    }

    function leave(map: Map<string, Flight>, flight: Flight, shared?: Shared) {
      flight.settle(shared);
      if (map.get(key) === flight) map.delete(key);
    }

    /** Its row is at least as new as this call. */
    const isNew = (flight: Flight | undefined) => flight && (!flight.begun || flight.begun > called);

    const decode = ([text]: Shared) => (text === undefined ? text : codec.decode(text));

    /** The fetcher threw: a copy that was kept for this, or the error. */
    async function grace(error: unknown, ms: number): Promise<Read<any>> {
      try {
        const kept: any = isGraced && !isDigest(error) && (await within(ask('GET', graceKey), ms));
        const [at] = kept.split(':', 1);
        const value = codec.decode(kept.slice(at.length + 1));
        const age = Math.max(0, Date.now() - at) / 1000;
        tell({ type: 'grace', key, ms: passed(), age });
        return { value, from: 'grace', age };
      } catch {
        throw error;
      }
    }

    const isGraced = options.grace! > 0;
    const graceKey = `grace:{${key}}`;
    const looking = [key, isBeside && leaseKey, markKey].filter(Boolean) as string[];
    const isOne = !looking[1];

    /** What the cache holds. Nothing: there is no answer, or nobody deletes. */
    function seenIn(reply: Reply | undefined): Seen | undefined {
      if (isOne && reply !== undefined) return sort(reply);
      if (!Array.isArray(reply)) return;
      if (silence)
        try {
          const { at } = JSON.parse(reply.pop() as string);
          if (typeof at !== 'number' || Date.now() / 1000 - at > silence.seconds) return;
        } catch {
          return;
        }
      return isBeside ? (reply as Seen & Reply[]) : sort(reply[0]);
    }

    /** Takes the lease. Not ours: what the cache holds. Nothing: there is no answer. */
    async function take(): Promise<string | Seen | undefined> {
      if (protocol === 'plain') return '';
      const own = 'L' + random();
      const reply: any = isScript
        ? await ask('EVAL', TAKE, '1', leaseKey, own, `${leaseMs}`)
        : await ask('SET', leaseKey, own, 'NX', ...(isBeside ? [] : ['GET']), 'PX', `${leaseMs}`);
      if (reply === undefined) return;
      if (reply === (isBeside ? 'OK' : null)) return own;
      // The script makes more of it.
      if (reply?.startsWith?.(own)) return reply;
      return isBeside ? [null, reply ?? own] : sort(reply);
    }

    async function keep(lease: string, text: string) {
      const kept = letter + text;
      const where = isBeside ? [STORE_BESIDE, '2', key, leaseKey] : [STORE_IN_KEY, '1', key];
      const reply: any = await ask(...(lease ? ['EVAL', ...where, lease, kept] : ['SET', key, kept, 'EX']), `${seconds}`);
      // Some clients answer integers as texts.
      if (reply === 'OK' || reply == 1) {
        tell({ type: 'set', key, ttl: seconds, bytes: new TextEncoder().encode(kept).length });
        // What was refused is older than a change, and no copy of it is kept either.
        if (isGraced) await ask('SET', graceKey, `${Date.now()}:${text}`, 'EX', `${seconds + Math.ceil(options.grace!)}`);
      } else if (reply !== undefined) {
        tell({ type: 'refused', key, ms: passed() });
      }
    }

    /**
     * The row, and where a lease is ours ('' needs none), a store if that lease still stands then. The flight ends with the
     * last command; the call waits for that command only as long as it may.
     */
    async function fill(map: Map<string, Flight>, flight: Flight, lease?: string, left = budget): Promise<Read<any>> {
      /** The row as every reader gets it, what others may have of it, and whether it may be stored. */
      let value: unknown;
      let shared: Shared | undefined;
      let isKept: unknown;
      const land = async () => {
        try {
          if (lease !== undefined && isKept) await keep(lease, shared![0]!);
          else if (lease) await ask('EVAL', GIVE_BACK, '1', leaseKey, lease);
        } finally {
          leave(map, flight, shared);
        }
      };
      try {
        flight.begun = ++clock;
        const row = (value = await run(fetcher));
        if (row === undefined) shared = [];
        else
          try {
            const text = codec.encode(row);
            if (typeof text !== 'string') throw TypeError('no text');
            value = codec.decode(text);
            shared = [text];
          } catch (error) {
            tell({ type: 'unencodable', key, error });
          }
        isKept = shared?.length && (!options.storeIf || options.storeIf(row));
      } catch (error) {
        await within(land(), left / 2);
        return grace(error, left / 2);
      }
      const answer = done(lease === undefined ? 'bypass' : 'miss', value);
      const work = land();
      try {
        // Outside of a request such a function may throw. Then the call waits, as without one.
        waitUntil!(work.catch(nothing));
      } catch {
        await within(work, left);
      }
      flight.settle(shared);
      return answer;
    }

    let joins = 0;

    /** The cache gives no help: the row, and nothing is stored. Nobody gets a row whose fetch began before the call. */
    async function row(): Promise<Read<any>> {
      let before;
      // Of those whose fetch failed or hangs, one fetches again, and the others wait for that one.
      for (let patience = waitMs; isNew((before = rows.get(key))) && joins++ < JOINS_MAX; patience = leaseMs) {
        const shared = await within(before!.shared, patience);
        if (shared) return done('bypass', decode(shared));
        leave(rows, before!);
      }
      const flight = enter(rows);
      // Calls of the same moment come before the fetch begins.
      await (before && within(before.shared, TURN_MS));
      return fill(rows, flight);
    }

    let nap = NAP_MS;
    /** How long this call still waits for others. */
    const wait = () => waitMs - passed();
    for (;;) {
      const looked = performance.now();
      let seen = seenIn(await ask(isOne ? 'GET' : 'MGET', ...looking));
      if (!seen) return row();
      let flight = flights.get(key);
      if (seen[0] === null && (isNew(flight) || (flight && seen[1] && seen[1] === flight.lease))) {
        const shared = await within(flight!.shared, wait());
        if (shared) return done('joined', decode(shared));
        if (joins++ < JOINS_MAX && wait() > 0) continue;
        return row();
      }
      if (seen[0] === null && seen[1] === null) {
        flight = enter(flights);
        let taken;
        try {
          taken = await take();
        } finally {
          if (typeof taken !== 'string') leave(flights, flight);
        }
        if (typeof taken === 'string') {
          flight.lease = taken;
          return fill(flights, flight, taken, budget - performance.now() + looked);
        }
        if (!taken) return row();
        seen = taken;
      }
      const [found, lease] = seen;
      if (typeof found === 'string' && found.startsWith(letter)) {
        try {
          return done('hit', codec.decode(found.slice(letter.length)));
        } catch {
          // As good as foreign.
        }
      }
      // What is foreign stays so; another's lease does not.
      if (!lease || wait() < nap) return row();
      await within(new Promise(nothing), nap * (0.5 + Math.random() / 2));
      nap = Math.min(nap * 1.6, NAP_MAX_MS);
    }
  }

  const counts = () => ({
    hits: times('hit'),
    misses: times('miss'),
    joined: times('joined'),
    bypassed: times('bypass'),
    stored: times('set'),
    refused: times('refused'),
    errors: times('error'),
  });

  return {
    read,
    getOrSet: async (...args) => (await read(...args)).value,
    async invalidate(names, space) {
      if (!names.length) return true;
      const keys = names.map((name) => fullKey(name, space));
      const reply = await ask('UNLINK', ...keys, ...(isBeside ? keys.map(leaseOf) : []));
      tell({ type: 'invalidate', keys, removed: reply === undefined ? reply : Number(reply) });
      return reply !== undefined;
    },
    stats() {
      const all = counts();
      return { ...all, hitRate: all.hits / (all.hits + all.misses + all.bypassed || 1) };
    },
    metrics: () =>
      Object.entries({ ...counts(), grace: times('grace') })
        .map(([name, n]) => `# TYPE crieur_cache_${name}_total counter\ncrieur_cache_${name}_total ${n}\n`)
        .join(''),
    test: () => probe(store, fullKey(''), isScript, markKey, silence?.seconds),
    close: async () => store?.close?.(),
  };
}
