// The lines of the log. No line carries a value.

import { messageOf } from './small.js';
import type { CacheEvent, LockEvent, MemoryEvent } from './types.js';

/** Prints an event of a cache, of its memory, or of a lock. */
export function consoleLog(event: CacheEvent | LockEvent | MemoryEvent): void {
  const { type, key, ms, error, name, seconds, ...more } = event as any;
  const took = `${Math.round(ms)}ms`;
  const said = {
    hit: `HIT   | ${key} | ${took}`,
    miss: `MISS  | ${key} | ${took} (DB)`,
    set: `SET   | ${key} | TTL ${more.ttl}s`,
    bypass: `PASS  | ${key} | cache away`,
    refused: `KEPT OUT | ${key} | changed meanwhile`,
  }[type as string];
  // What a codec throws may quote the value, and comes with a key.
  const other = [key ?? more.keys ?? more.command ?? more.why ?? name, ms && took, seconds && `${seconds}s`, !key && error && messageOf(error)];
  console.log((name ? '[LOCK]  ' : '[CACHE] ') + (said ?? [type.toUpperCase(), ...other].filter(Boolean).join(' | ')));
}
