// The way to the cache fails open: a command is answered, or it is not, and after some losses nothing is sent for a while.

import { isDigest, messageOf } from './small.js';
import type { CacheEvent, Reply, Store } from './types.js';

/** So long nothing is sent once the cache says that it will not serve us: a wrong token, a quota. */
const REFUSED_MS = 60_000;
const REFUSED = /WRONGPASS|NOAUTH|Unauthorized|max .*requests? limit/i;

/** Sends a command. `undefined`: there is no answer. Rejects only with what a framework throws for itself. */
export type Ask = (...command: string[]) => Promise<Reply | undefined>;

/**
 * What is counted are losses, not commands: of what was under way together, the first failure counts. Behind a pause one
 * command is tried, and the others go without an answer until that one is settled.
 */
export function asker(
  store: Store | null,
  pauseAfter: number,
  pauseMs: number,
  tell: (event: CacheEvent) => void,
): Ask {
  let losses = 0;
  let inARow = 0;
  /** The end of the pause; 0: there is none. */
  let until = 0;

  return async (...command) => {
    const now = performance.now();
    if (!store || now < until) return;
    if (until) until = now + pauseMs;
    const sent = losses;
    let reply: Reply | undefined;
    try {
      reply = await store.send(...command);
    } catch (error) {
      if (isDigest(error)) throw error;
      tell({ type: 'error', command: command[0]!, error });
      const text = messageOf(error);
      // This is an answer, about one key.
      if (!text.includes('WRONGTYPE')) {
        if (sent === losses) {
          losses++;
          const isRefused = REFUSED.test(text);
          if (++inARow >= pauseAfter || until || isRefused) {
            const ms = Math.max(pauseMs, isRefused ? REFUSED_MS : 0);
            until = performance.now() + ms;
            tell({ type: 'pause', ms, error });
          }
        }
        return;
      }
    }
    if (sent === losses) {
      inARow = 0;
      if (until) tell({ type: 'resume' });
      until = 0;
    }
    return reply;
  };
}
