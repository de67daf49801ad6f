/// <reference lib="esnext.disposable" preserve="true" />
// What users of the package name. No code.

/** What a server answers, as texts and integers. */
export type Reply = string | number | null | Reply[];

/** The way to the cache. It sends a command at most once and answers in bounded time, or rejects. */
export interface Store {
  /** Rejects also when the command may have been sent twice. */
  send(...command: string[]): Promise<Reply>;
  /** Whether a command that was given up on may still run later by itself: then `protocol: 'plain'` is refused. */
  readonly resends?: boolean;
  /** Within how many milliseconds `send` settles. Without it, 500 are assumed. */
  readonly timeout?: number;
  /** Closes the connection. */
  close?(): Promise<void>;
}

/** Turns values into texts and back. `encode` answers `undefined`, or throws, for what has no text. */
export interface Codec {
  encode(value: unknown): string | undefined;
  decode(text: string): unknown;
}

/** Where a value came from. `'memory'`: only with `crieur-cache/memory`. */
export type From = 'hit' | 'miss' | 'joined' | 'bypass' | 'grace' | 'memory';

/** What a cache reports. No event carries a value. */
export type CacheEvent =
  | { type: 'hit' | 'miss' | 'joined' | 'bypass' | 'refused'; key: string; ms: number }
  | { type: 'grace'; key: string; ms: number; age: number }
  | { type: 'set'; key: string; ttl: number; bytes: number }
  | { type: 'invalidate'; keys: string[]; removed: number | undefined }
  | { type: 'unencodable'; key: string; error: unknown }
  | { type: 'error'; command: string; error: unknown }
  | { type: 'pause'; ms: number; error: unknown }
  | { type: 'resume' };

/** Why a tier in memory forgot everything. */
export type FlushReason = 'connection' | 'epoch' | 'number' | 'flush' | 'unreadable' | 'mark' | 'silence';

/** What a tier in memory reports beside the events of the cache. */
export type MemoryEvent = { type: 'memory'; key: string; ms: number } | { type: 'flush'; why: FlushReason };

/** How a cache behaves. */
export interface CacheOptions<T extends string = string> {
  /** The way to the cache; `null`: there is none, and every call reads its row. */
  store: Store | null;
  /** Seconds by the kind of data: `{ list: 300, detail: 3600 }`. */
  ttls?: Record<T, number>;
  /** A name of `ttls`, or seconds. 300. */
  ttl?: NoInfer<T> | number;
  /** The key is `namespace:key`, byte for byte as the rules of the daemon make it. */
  namespace?: string;
  /** `'script'`: a lease that is another at each run, for ways that duplicate requests. `'once'`. */
  take?: 'once' | 'script';
  /** Where the lease stands: in the key, beside it, or nowhere. `'key'`. */
  protocol?: 'key' | 'companion' | 'plain';
  /** After so long a lease that nobody gave back frees its key. 10,000. */
  leaseMs?: number;
  /** So long a call waits for another's lease. 1,000. */
  waitMs?: number;
  /** After so many losses in a row nothing is sent for a while. 3. */
  pauseAfter?: number;
  /** That while, in milliseconds. 2,000. */
  pauseMs?: number;
  /** Passes the cache by while the mark of this slot is missing, or older than so many seconds. */
  silence?: { slot: string; seconds: number };
  /** JSON. */
  codec?: Codec;
  /** `false`: no call uses a promise of another one. `true`, on Cloudflare Workers `false`. */
  share?: boolean;
  /** Is told what happens. What it throws changes nothing. */
  on?: (event: CacheEvent) => void;
  /** Takes the store over, so that the caller is answered before it: Next's `after`, Vercel's `waitUntil`. */
  waitUntil?: (work: Promise<unknown>) => void;
}

/** How one read differs. */
export interface ReadOptions<T extends string, V> {
  /** A name of `ttls`, or seconds. */
  ttl?: T | number;
  /** Instead of the namespace of the cache. */
  namespace?: string;
  /** Whether this value is stored. Values other than `undefined` are. */
  storeIf?: (value: V) => boolean;
  /** Keeps a copy for when the fetcher throws, for so many seconds beyond the TTL. None. */
  grace?: number;
}

/** Reads the row. Both members keep a `fetch` out of the caches of the framework. */
export type Fetcher<V> = (context: { signal: AbortSignal; fetch: typeof fetch }) => V | Promise<V>;

/** A value, and where it came from. `age` in seconds, only of `'grace'`. */
export interface Read<V> {
  value: V;
  from: From;
  age?: number;
}

/** Counts since the cache was made. */
export interface Stats {
  hits: number;
  misses: number;
  joined: number;
  bypassed: number;
  stored: number;
  refused: number;
  errors: number;
  /** hits / (hits + misses + bypassed), from 0 to 1. Joined reads are not in it. */
  hitRate: number;
}

/** What `test` found. */
export interface Probe {
  ok: boolean;
  steps: { name: string; ok: boolean; ms: number; error?: string }[];
  mark?: { at: number; lsn: string; silentFor: number };
}

/** A cache whose reads leave nothing stale. */
export interface Cache<T extends string> {
  /** The cached value, or that of the fetcher, which is then stored. */
  getOrSet<V>(key: string, fetcher: Fetcher<V>, options?: ReadOptions<T, V>): Promise<V>;
  /** The same, and where the value came from. */
  read<V>(key: string, fetcher: Fetcher<V>, options?: ReadOptions<T, V>): Promise<Read<V>>;
  /** Deletes keys after one's own commit, to read one's own write sooner than the daemon. False: no answer. */
  invalidate(keys: string[], namespace?: string): Promise<boolean>;
  stats(): Stats;
  /** The counts as a Prometheus text. */
  metrics(): string;
  /** Tries each step of the protocol on keys of its own. Never rejects. */
  test(): Promise<Probe>;
  /** Closes the store, and with it the client that the store was made of. */
  close(): Promise<void>;
}

/** How a lock is taken and held. */
export interface LockOptions {
  /** The key stands so long without a renewal. 10. */
  expireSeconds?: number;
  /** Attempts in all; 1 does not wait. 1. */
  retries?: number;
  /** The first pause between attempts, at most. 200. */
  delayMs?: number;
  /** Whether the lock renews itself. `true`. */
  renew?: boolean;
  /** The whole holding, renewals included. 300. */
  maxSeconds?: number;
  /** Ends the wait. */
  signal?: AbortSignal;
}

/** A lock that is held. */
export interface Lock extends AsyncDisposable {
  readonly name: string;
  /** The value of the key. */
  readonly token: string;
  /** Grows from holder to holder. */
  readonly fence: number;
  /** Aborts before another can have the lock; its reason is a `LockError` with the reason `'lost'`. */
  readonly signal: AbortSignal;
  readonly held: boolean;
  /** Lets the lock stand for so many seconds from now. False: it does not, or nobody knows. */
  extend(seconds?: number): Promise<boolean>;
  /** True: the lock was still ours, and is free now. */
  release(): Promise<boolean>;
}

/** Why there is no lock, or no success. */
export type LockReason = 'busy' | 'unavailable' | 'lost' | 'failed';

/** What `withLock` answers. */
export type LockResult<V> =
  | { success: true; data: V; fence: number }
  | { success: false; error: string; reason: LockReason; cause?: unknown; data?: V };

/** What locks report. */
export type LockEvent = { type: 'acquired' | 'released' | 'lost' | 'busy'; name: string; seconds?: number };

/** Locks over one store. */
export interface Locks {
  /** `null`: somebody else has it. Rejects with a `LockError` when nobody knows. */
  acquire(name: string, options?: LockOptions): Promise<Lock | null>;
  /** Runs the work under the lock. Rejects only with what a framework throws for itself (an error with a `digest`). */
  withLock<V>(name: string, work: (lock: Lock) => V | Promise<V>, options?: LockOptions): Promise<LockResult<V>>;
}
