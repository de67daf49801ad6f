// Locks: fail closed, told when they are lost. What a Redis lock cannot promise stands in `docs/locks.md`.

import { GIVE_BACK, LOCK_RENEW, LOCK_TAKE } from './lua.js';
import { isDigest, messageOf, nothing, random, teller } from './small.js';
import type { Lock, LockEvent, LockOptions, LockReason, LockResult, Locks, Reply, Store } from './types.js';

/** The longest pause between two attempts. */
const PAUSE_MAX_MS = 2_000;
/** A timer that is set for longer fires at once. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** Why there is no lock, or no longer. */
export class LockError extends Error {
  readonly reason: LockReason;
  constructor(reason: LockReason, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'LockError';
    this.reason = reason;
  }
}

/** What a release found: `undefined`, nobody knows. */
type Freed = boolean | undefined;

/** A lock, and what only `withLock` asks. */
interface Holding extends Lock {
  free(): Promise<Freed>;
}

/** By our clock the lock ends earlier than by the server's: clocks drift, and timers are late. */
const margin = (ms: number) => ms * 0.03 + 10;

/** Makes locks. */
export function createLocks({
  store,
  prefix = 'lock:',
  on,
}: {
  store: Store | null;
  prefix?: string;
  on?: (event: LockEvent) => void;
}): Locks {
  const tell = teller(on);

  const send = async (script: string, ...rest: string[]): Promise<Reply> => {
    if (!store) throw new Error('there is no cache: the store is null');
    return store.send('EVAL', script, '1', ...rest);
  };

  /** A take that was given up on may arrive late, and a release may have been lost: freed again until the key is gone. */
  async function freeLater(key: string, token: string, ms: number) {
    for (const end = performance.now() + ms; performance.now() < end; ) {
      try {
        if (Number(await send(GIVE_BACK, key, token)) === 1) return;
      } catch {}
      await new Promise<void>((resolve) => {
        const timer: any = setTimeout(resolve, Math.max(50, ms / 8));
        // This alone keeps no process alive.
        timer.unref?.();
      });
    }
  }

  async function acquire(name: string, options: LockOptions = {}): Promise<Holding | null> {
    const { expireSeconds = 10, retries = 1, delayMs = 200, maxSeconds = 300, signal } = options;
    const key = prefix + name;
    const token = random();
    const ms = Math.ceil(Math.min(expireSeconds, maxSeconds) * 1000);
    if (!(ms > 0)) throw new TypeError(`${key}: expireSeconds and maxSeconds are positive numbers`);
    let abort = nothing;
    let wake = nothing;
    const aborted = new Promise<null>((resolve) => (abort = () => (resolve(null), wake())));
    signal?.addEventListener('abort', abort);
    try {
      for (let attempt = 1; !signal?.aborted; attempt++) {
        const sent = performance.now();
        let reply: Reply;
        try {
          reply = await Promise.race([send(LOCK_TAKE, key, token, String(ms)), aborted]);
          // An answer that came too late gives no lock.
          if (Array.isArray(reply) && Number(reply[0]) === 1 && performance.now() > sent + ms - margin(ms))
            throw new Error('the answer came too late');
        } catch (cause) {
          if (store) freeLater(key, token, ms);
          if (isDigest(cause)) throw cause;
          throw new LockError('unavailable', `${key}: nobody knows who has the lock: ${messageOf(cause)}`, cause);
        }
        if (!Array.isArray(reply)) {
          freeLater(key, token, ms);
          break;
        }
        if (Number(reply[0]) === 1) {
          tell({ type: 'acquired', name, seconds: expireSeconds });
          return hold(name, key, token, Number(reply[1]), sent, ms, options);
        }
        if (attempt >= retries) break;
        const most = Math.min(delayMs * 2 ** (attempt - 1), PAUSE_MAX_MS, Math.max(Number(reply[1]), 1) + 50);
        await new Promise<void>((go) => {
          const timer = setTimeout(go, Math.random() * most);
          // A timer would keep the process alive.
          wake = () => (clearTimeout(timer), go());
        });
      }
    } finally {
      signal?.removeEventListener('abort', abort);
    }
    tell({ type: 'busy', name });
    return null;
  }

  function hold(name: string, key: string, token: string, fence: number, sent: number, first: number, options: LockOptions) {
    const { renew = true, maxSeconds = 300 } = options;
    const stop = new AbortController();
    const last = sent + maxSeconds * 1000;
    let ms = first;
    let until = 0;
    let isOver = false;
    let freed: Promise<Freed> | undefined;
    let watch: ReturnType<typeof setTimeout> | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;

    const end = () => {
      isOver = true;
      clearTimeout(watch);
      clearTimeout(timer);
    };
    const lose = (why: string) => {
      if (isOver) return;
      end();
      tell({ type: 'lost', name });
      stop.abort(new LockError('lost', `${key}: ${why}`));
    };
    const isHeld = () => {
      if (performance.now() >= until) lose('the lock expired');
      return !isOver;
    };
    /** The key stands so long, counted from before the command was sent. */
    const stands = (since: number, length: number) => {
      until = since + length - margin(length);
      clearTimeout(watch);
      const left = until - performance.now();
      // Not `isHeld`: a timer may fire a millisecond early, and nobody would look again.
      if (left > TIMER_MAX_MS) watch = setTimeout(stands, TIMER_MAX_MS, since, length);
      else watch = setTimeout(lose, Math.max(0, left), 'the lock expired');
    };
    const extend = async (seconds?: number) => {
      if (!isHeld()) return false;
      if (seconds !== undefined) {
        if (!(seconds > 0)) return false;
        ms = Math.ceil(seconds * 1000);
        again();
      }
      const since = performance.now();
      const length = Math.floor(Math.min(ms, last - since));
      if (length < 1) return false;
      let reply: Reply;
      try {
        reply = await send(LOCK_RENEW, key, token, String(length));
      } catch {
        // Nobody knows. The deadline that stands decides.
        return false;
      }
      if (Number(reply) !== 1) lose('somebody else has the lock, or nobody');
      else if (!isOver) stands(since, length);
      return isHeld();
    };
    /** The next renewal, in a third of the time that the lock has now. */
    const again = () => {
      clearTimeout(timer);
      const work = async () => {
        const mine = timer;
        await extend();
        if (!isOver && mine === timer) again();
      };
      if (renew) timer = setTimeout(work, Math.min(ms / 3, TIMER_MAX_MS));
    };
    stands(sent, ms);
    again();

    const free = () =>
      (freed ??= (async () => {
        const wasHeld = isHeld();
        end();
        try {
          const isOurs = Number(await send(GIVE_BACK, key, token)) === 1;
          if (isOurs) tell({ type: 'released', name });
          return isOurs && wasHeld;
        } catch {
          freeLater(key, token, Math.max(0, until - performance.now()));
          return wasHeld ? undefined : false;
        }
      })());
    const release = async () => {
      const isFirst = !freed;
      return (await free()) === true && isFirst;
    };
    return {
      name,
      token,
      fence,
      signal: stop.signal,
      get held() {
        return isHeld();
      },
      extend,
      free,
      release,
      async [Symbol.asyncDispose]() {
        await release();
      },
    } satisfies Holding;
  }

  async function withLock<V>(
    name: string,
    work: (lock: Lock) => V | Promise<V>,
    options?: LockOptions,
  ): Promise<LockResult<V>> {
    const no = (reason: LockReason, error: string, more: object): LockResult<V> => ({ success: false, error, reason, ...more });
    let lock: Holding | null;
    try {
      lock = await acquire(name, options);
    } catch (cause) {
      if (isDigest(cause)) throw cause;
      return no('unavailable', messageOf(cause), { cause });
    }
    if (!lock) return no('busy', `${prefix}${name}: somebody else has the lock`, {});
    try {
      const data = await work(lock);
      if ((await lock.free()) !== false) return { success: true, data, fence: lock.fence };
      return no('lost', `${prefix}${name}: the lock was lost before the work ended`, { data });
    } catch (cause) {
      const isLost = (await lock.free()) === false;
      if (isDigest(cause)) throw cause;
      return no(isLost ? 'lost' : 'failed', messageOf(cause), { cause });
    }
  }

  return { acquire, withLock };
}
