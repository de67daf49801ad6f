// A store over a client of ioredis, 5 or 6, whatever its options are.

import { nothing } from './small.js';
import type { Reply, Store } from './types.js';

/** What is used of a client, so that any version's type fits. */
export interface IoredisClient {
  readonly options: object;
  readonly status: string;
  call(command: string, ...args: string[]): Promise<unknown>;
  on(event: string, listener: (...args: any[]) => void): unknown;
  connect(): Promise<unknown>;
  disconnect(): void;
}

/**
 * A reply that belongs to a connection that broke is no answer: the client may have sent the command again. So whatever
 * waits, for the connection or for a reply, ends when the connection does.
 */
export function fromIoredis(client: IoredisClient, { timeout = 500 }: { timeout?: number } = {}): Store {
  const redis = client as any;
  const { options } = redis;
  if (options.keyPrefix || redis.isCluster)
    throw TypeError('keyPrefix: use namespace. Cluster: not supported');
  /** Each is told when the connection is ready, and when it is lost, and since when it waits. The oldest come first. */
  const waiting = new Map<(lost?: unknown) => void, number>();
  let why: unknown;
  const end = (lost?: unknown) => waiting.forEach((_, go) => go(lost));
  const gone = () => why ?? Error('no answer');
  const lose = () => end(gone());
  redis.on('error', (error: unknown) => (why = error));
  redis.on('close', lose);
  redis.on('ready', () => end((why = undefined)));

  // One timer for all commands: one of their own would cost more than the rest. It keeps the process alive while one waits.
  let timer: any;
  const watch = () => {
    timer = undefined;
    for (const [go, start] of waiting) {
      const left = start + timeout - performance.now();
      if (left > 0) return (timer = setTimeout(watch, left));
      go(gone());
    }
  };

  const send = (...command: string[]) =>
    new Promise<Reply>((resolve, reject) => {
      let isSent = false;
      const over = (settle: (value: any) => void) => (value: unknown) => {
        waiting.delete(go);
        if (!waiting.size) timer?.unref();
        settle(value);
      };
      const go = (lost?: unknown) => {
        if (lost) return over(reject)(lost);
        if (!isSent) redis.call(...command).then(over(resolve), over(reject));
        isSent = true;
      };
      waiting.set(go, performance.now());
      timer ??= setTimeout(watch, timeout);
      timer.ref();
      if (redis.status === 'ready') go();
      if (redis.status === 'wait') redis.connect().catch(nothing);
      if (redis.status === 'end') lose();
    });

  return {
    send,
    timeout,
    // Behind a loss, the client keeps commands and sends them on the next connection, unless this forbids it.
    resends: options.maxRetriesPerRequest !== 0,
    async close() {
      const { stream } = redis;
      redis.disconnect();
      // A peer that is silent would never end the connection.
      stream?.destroy();
    },
  };
}
