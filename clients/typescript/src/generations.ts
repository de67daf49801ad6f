// Entries whose tags are generation keys: which of them stand, and which may be stored. `next-lua.ts` has the server's part.

import { asker } from './ask.js';
import { EXPIRE, LOOK, SAVE } from './next-lua.js';
import { random } from './small.js';
import type { CacheEvent, Store } from './types.js';

/** The clock of the server, as an answer had it that came at `at` of this process' clock. */
export interface Reading {
  at: number;
  epoch: string;
  n: number;
}

/** An entry, as it is stored. */
export interface Kept {
  key: string;
  tags: string[];
  paths: string[];
  text: string;
  seconds: number;
}

/** What a look found. Nothing at all: there is no answer. */
export interface Look {
  reading: Reading;
  text: string | undefined;
  /** The tags of the entry that stands, or stood. */
  tags: string[];
}

/** A render that was, or is being, stored. */
interface Fill {
  start: number;
  end: number;
  tags: Set<string>;
  epoch: string;
  /** The number of the clock before it began; then before whatever it may have joined began; and so on. */
  levels: number[];
}

/** Next may nest what it joins: a page, a component in it, a function in that, and one more. */
const LEVELS = 4;
const FILLS_MAX = 2_000;
const READINGS_MAX = 2_000;

/** Milliseconds on the clock that Next stamps its entries with. */
export const clock = () => performance.timeOrigin + performance.now();

/** Next writes what is no ASCII in percent (`encodeHeaderSafe`); the key of a tag has the tag's own letters. */
export function plainTag(tag: string): string {
  return tag.replace(/(?:%[89A-F][0-9A-F])+/g, (run) => {
    try {
      return decodeURIComponent(run);
    } catch {
      return run;
    }
  });
}

/** The paths of `revalidatePath`, and the tags of the application. */
export function sorted(tags: readonly string[]): { tags: string[]; paths: string[] } {
  const all = [...new Set(tags)].filter(Boolean);
  return {
    tags: all.filter((tag) => !tag.startsWith('_N_T_')).map(plainTag),
    paths: all.filter((tag) => tag.startsWith('_N_T_')),
  };
}

/** The entries of one application. */
export class Generations {
  readonly #open: () => Store;
  readonly #prefix: string;
  readonly #standMs: string;
  readonly #tell: (event: CacheEvent) => void;
  #store: Store | undefined;
  #ask: ReturnType<typeof asker> | undefined;
  /** The oldest come first, and each has another number. */
  readonly #readings: Reading[] = [];
  #fills: Fill[] = [];
  /** Fills that ended up to here were forgotten. */
  #forgotten = 0;

  constructor(open: () => Store, prefix: string, standSeconds: number, tell: (event: CacheEvent) => void) {
    this.#open = open;
    this.#prefix = prefix;
    this.#standMs = `${standSeconds * 1000}`;
    this.#tell = tell;
  }

  #server(): Store {
    return (this.#store ??= this.#open());
  }

  #command(script: string, keys: string[], ...args: string[]): string[] {
    const names = ['clock', ...keys].map((key) => `${this.#prefix}:${key}`);
    return ['EVAL', script, `${names.length}`, ...names, random(), this.#standMs, `${this.#prefix}:tag:`, ...args];
  }

  #send(...command: string[]) {
    this.#ask ??= asker(this.#server(), 3, 2_000, this.#tell);
    return this.#ask(...command);
  }

  /** The entry, if it stands with these tags on these paths. */
  async look(key: string, tags: string[], paths: string[]): Promise<Look | undefined> {
    const start = performance.now();
    const reply: any = await this.#send(...this.#command(LOOK, [key], `${tags.length}`, ...tags, ...paths));
    if (!Array.isArray(reply)) return;
    const [epoch, n, text, known] = reply;
    const reading = { at: clock(), epoch, n: Number(n) };
    const last = this.#readings.at(-1);
    if (last?.epoch !== epoch || last?.n !== reading.n) this.#readings.push(reading);
    if (this.#readings.length > READINGS_MAX) this.#readings.shift();
    this.#tell({ type: typeof text === 'string' ? 'hit' : 'miss', key: `${this.#prefix}:${key}`, ms: performance.now() - start });
    return { reading, text: text ?? undefined, tags: Object.keys(JSON.parse(known ?? '{}')) };
  }

  /** What was known of the clock before this moment. */
  before(moment: number): Reading | undefined {
    for (let i = this.#readings.length; i--; ) if (this.#readings[i]!.at <= moment) return this.#readings[i];
    return;
  }

  /**
   * Stores what was rendered since `start`, when the server's clock said `reading`, unless a tag was expired meanwhile.
   * Next gives a render that is under way to whoever asks for the same: such a render counts from the begin of what it may
   * have joined.
   */
  async save(start: number, reading: Reading, { key, tags, paths, text, seconds }: Kept): Promise<void> {
    if (start <= this.#forgotten) return;
    const set = new Set(tags);
    const near = this.#fills.filter((fill) => fill.end >= start && [...fill.tags].some((tag) => set.has(tag)));
    const levels = [reading.n];
    while (levels.length < LEVELS)
      levels.push(
        near.reduce((n, fill) => Math.min(n, fill.epoch === reading.epoch ? fill.levels[levels.length - 1]! : 0), reading.n),
      );
    const fill: Fill = { start, end: Infinity, tags: set, epoch: reading.epoch, levels };
    this.#fills.push(fill);
    try {
      const number = `${levels.at(-1)}`;
      const rest = [reading.epoch, number, `${seconds * 1000}`, text, JSON.stringify(paths), ...tags];
      const reply = await this.#send(...this.#command(SAVE, [key], ...rest));
      const name = `${this.#prefix}:${key}`;
      if (Number(reply) === 1) this.#tell({ type: 'set', key: name, ttl: seconds, bytes: text.length });
      else if (reply !== undefined) this.#tell({ type: 'refused', key: name, ms: clock() - start });
    } finally {
      fill.end = clock();
      this.#forget();
    }
  }

  #forget() {
    if (this.#fills.length <= FILLS_MAX) return;
    const over = this.#fills.filter(({ end }) => end < Infinity).slice(0, FILLS_MAX / 2);
    this.#forgotten = over.reduce((most, { end }) => Math.max(most, end), this.#forgotten);
    this.#fills = this.#fills.filter((fill) => !over.includes(fill));
  }

  /** Expires tags and paths. Rejects when there is no answer: whoever called must know. */
  async expire(tags: string[], paths: string[]): Promise<void> {
    if (!tags.length && !paths.length) return;
    try {
      await this.#server().send(...this.#command(EXPIRE, [], `${tags.length}`, ...tags, ...paths));
    } catch (error) {
      throw new Error('crieur-cache/next-handler: the tags were not expired, the cache does not answer', { cause: error });
    }
  }
}
