// The cache of Next.js in Redis, for `cacheHandler` (pages, `fetch`, `unstable_cache`) and `cacheHandlers` (`'use cache'`) of
// Next 16, shared by all instances. A tag is a key, and crieur deletes it.

import { Generations, sorted, type Reading } from './generations.js';
import { nothing, teller } from './small.js';
import type { CacheEvent, Store } from './types.js';

/** How the handler is made. */
export interface NextHandlerOptions {
  /** The way to the cache. A function is called at the first use, and never by `next build`. */
  store: Store | (() => Store);
  /** The keys are `prefix:tag:…`, `prefix:entry:…` and `prefix:clock`. `'next'`. */
  prefix?: string;
  /** No key stands longer. 30 days. */
  maxSeconds?: number;
  /** Is told what happens. `consoleLog` prints it. */
  on?: (event: CacheEvent) => void;
}

/** An entry of `'use cache'`, as Next has it. */
export interface UseCacheEntry {
  value: ReadableStream<Uint8Array>;
  tags: string[];
  stale: number;
  timestamp: number;
  expire: number;
  revalidate: number;
}

/** A handler of `cacheHandlers`. */
export interface UseCacheHandler {
  get(key: string, softTags: string[]): Promise<UseCacheEntry | undefined>;
  set(key: string, pending: Promise<UseCacheEntry>): Promise<void>;
  refreshTags(): Promise<void>;
  getExpiration(tags: string[]): Promise<number>;
  updateTags(tags: string[], durations?: { expire?: number }): Promise<void>;
}

/** A handler of `cacheHandler`: Next makes one for each request. */
export interface IncrementalHandler {
  get(key: string, context?: any): Promise<any>;
  set(key: string, data: any, context?: any): Promise<void>;
  revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void>;
  resetRequestCache(): void;
}

/** Both in one, so that one file serves both settings: Next makes instances of the one, and calls the other as it is. */
export type NextHandler = UseCacheHandler & (new (context?: any) => IncrementalHandler);

const DAY = 86_400;
/** Bytes and maps, which JSON does not have. Next's values have no such names. */
const BYTES = '\0bytes';
const MAP = '\0map';
const { Buffer, process } = globalThis as any;

/** `next build` renders for nobody: what it would store is older than the deployment. */
const isBuild = () => process?.env?.NEXT_PHASE === 'phase-production-build';

function packed(value: unknown): string {
  return JSON.stringify(value, function (this: any, name, given) {
    const raw = this[name];
    if (raw instanceof Uint8Array) return { [BYTES]: Buffer.from(raw.buffer, raw.byteOffset, raw.length).toString('base64') };
    if (raw instanceof Map) return { [MAP]: [...raw] };
    return given;
  });
}

function unpacked(text: string): any {
  return JSON.parse(text, (_, value) => {
    if (typeof value?.[BYTES] === 'string') return Buffer.from(value[BYTES], 'base64');
    if (Array.isArray(value?.[MAP])) return new Map(value[MAP]);
    return value;
  });
}

async function bytesOf(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream as any).arrayBuffer());
}

/** The keys of `'use cache'` hold the arguments of the call: long, and not for a log. */
async function digest(key: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key));
  return Buffer.from(hash).toString('hex');
}

/** The build that serves: a page belongs to its scripts. No build is the empty text. */
const builds = new Map<string, Promise<string>>();
function buildOf(serverDir: string | undefined): Promise<string> {
  const dir = serverDir ?? '';
  let found = builds.get(dir);
  if (!found) {
    const read = async () => {
      const { readFile } = (await import('node:fs/promises' as string)) as any;
      return (await readFile(`${dir}/../BUILD_ID`, 'utf8')).trim() as string;
    };
    builds.set(dir, (found = dir ? read().catch(() => '') : Promise.resolve('')));
  }
  return found;
}

/** Tags that Next wrote into the header of a page, or of a route. */
function tagsOf(data: any): string[] {
  const header = data?.headers?.['x-next-cache-tags'];
  return typeof header === 'string' ? header.split(',') : [];
}

/** Makes the handler: the default export of the file that `cacheHandler` and `cacheHandlers` of next.config name. */
export function createNextHandler({ store, prefix = 'next', maxSeconds = 30 * DAY, on }: NextHandlerOptions): NextHandler {
  const open = typeof store === 'function' ? store : () => store;
  const entries = new Generations(open, prefix, maxSeconds, teller(on));
  const secondsOf = (seconds: unknown) =>
    typeof seconds === 'number' && seconds > 0 && seconds < maxSeconds ? Math.ceil(seconds) : maxSeconds;

  async function expire(tags: string | string[]) {
    if (isBuild()) return;
    const names = sorted([tags].flat());
    await entries.expire(names.tags, names.paths);
  }

  /** What is being stored. Next wants a `get` to wait for it. */
  const storing = new Map<string, Promise<unknown>>();

  async function keep(name: string, pending: Promise<UseCacheEntry>) {
    const entry = await pending;
    const key = `entry:use:${await digest(name)}`;
    const { value, tags: all, ...times } = entry;
    const { tags, paths } = sorted(all);
    let bytes;
    try {
      bytes = await bytesOf(value);
    } catch {
      // A render that failed half-way is no entry.
      return;
    }
    // It would be made anew at each read.
    if (entry.expire === 0) return;
    const reading = entries.before(entry.timestamp);
    if (!reading) return;
    const text = packed({ ...times, tags: all, bytes });
    await entries.save(entry.timestamp, reading, { key, tags, paths, text, seconds: secondsOf(entry.expire) });
  }

  return class {
    static async get(key: string, softTags: string[]): Promise<UseCacheEntry | undefined> {
      if (isBuild()) return;
      await storing.get(key);
      const { paths } = sorted(softTags);
      const found = await entries.look(`entry:use:${await digest(key)}`, [], paths);
      if (found?.text === undefined) return;
      const { bytes, ...entry } = unpacked(found.text);
      return { ...entry, value: new Response(bytes).body! };
    }

    static async set(key: string, pending: Promise<UseCacheEntry>): Promise<void> {
      if (isBuild()) return void (await pending);
      const work = keep(key, pending);
      const ended = work.catch(nothing);
      storing.set(key, ended);
      await ended;
      if (storing.get(key) === ended) storing.delete(key);
      await work;
    }

    static async refreshTags(): Promise<void> {}

    /** The paths are looked at with each entry. */
    static async getExpiration(): Promise<number> {
      return Infinity;
    }

    static async updateTags(tags: string[]): Promise<void> {
      await expire(tags);
    }

    readonly #build: Promise<string>;
    /** Before the first render of this request. `null`: unknown, so nothing is stored. */
    #reading: Reading | null | undefined;
    readonly #known = new Map<string, string[]>();

    constructor(context?: any) {
      this.#build = isBuild() ? Promise.resolve('') : buildOf(context?.serverDistDir);
    }

    async #key(key: string, isFetch: boolean): Promise<string> {
      return `entry:${isFetch ? 'data' : `page:${await this.#build}`}:${key}`;
    }

    async get(key: string, context: any = {}): Promise<any> {
      if (isBuild()) return null;
      const isFetch = context.kind === 'FETCH';
      const { tags } = sorted(context.tags ?? []);
      const { paths } = sorted([...(context.tags ?? []), ...(context.softTags ?? [])]);
      const found = await entries.look(await this.#key(key, isFetch), tags, paths);
      if (!found) {
        if (this.#reading === undefined) this.#reading = null;
        return null;
      }
      if (this.#reading === undefined) this.#reading = found.reading;
      this.#known.set(key, found.tags);
      return found.text === undefined ? null : unpacked(found.text);
    }

    async set(key: string, data: any, context: any = {}): Promise<void> {
      if (isBuild() || !this.#reading) return;
      const isFetch = Boolean(context.fetchCache);
      const { tags, paths } = sorted([...(context.tags ?? []), ...(data?.tags ?? []), ...tagsOf(data)]);
      // Another reader of the same data may name other tags: the entry has them all.
      const all = isFetch ? [...new Set([...tags, ...(this.#known.get(key) ?? [])])] : tags;
      const text = packed({ lastModified: Date.now(), value: data, cacheControl: context.cacheControl });
      const seconds = secondsOf(context.cacheControl?.expire);
      await entries.save(this.#reading.at, this.#reading, { key: await this.#key(key, isFetch), tags: all, paths, text, seconds });
    }

    async revalidateTag(tags: string | string[]): Promise<void> {
      await expire(tags);
    }

    resetRequestCache(): void {}
  } as NextHandler;
}

