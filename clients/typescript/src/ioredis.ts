// A store over a client of ioredis, 5 or 6, whatever its options are.

import { nothing, within } from './small.js';
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
  const options = redis.options ?? {};
  if (options.keyPrefix || redis.isCluster)
    throw new TypeError('keyPrefix, Cluster: crieur would not find these keys');
  const waiting = new Set<(lost?: unknown) => void>();
  let why: unknown;
  const end = (lost?: unknown) => waiting.forEach((go) => go(lost));
  const lose = () => end(why ?? new Error('the connection is lost'));
  redis.on('error', (error: unknown) => (why = error));
  redis.on('close', lose);
  redis.on('ready', () => end((why = undefined)));

  async function send(...command: string[]): Promise<Reply> {
    let go: (lost?: unknown) => void = nothing;
    const reply = new Promise<Reply>((resolve, reject) => {
      let isSent = false;
      // Called when the connection is ready, and when it is lost.
      go = (lost) => {
        if (lost) return reject(lost);
        if (!isSent) new Promise<Reply>((answer) => answer(redis.call(...command))).then(resolve, reject);
        isSent = true;
      };
      waiting.add(go);
      if (redis.status === 'ready') go();
      if (redis.status === 'wait') redis.connect().catch(nothing);
      if (redis.status === 'end') lose();
    });
    try {
      return await within(reply, timeout, async () => {
        throw why ?? new Error(`no answer in ${timeout} ms`);
      });
    } finally {
      waiting.delete(go);
    }
  }

  return {
    send,
    timeout,
    // Behind a loss, the client keeps commands and sends them on the next connection, unless one of these forbids it.
    resends: !(
      options.maxRetriesPerRequest === 0 ||
      typeof options.retryStrategy !== 'function' ||
      (options.autoResendUnfulfilledCommands === false && options.enableOfflineQueue === false)
    ),
    async close() {
      const { stream } = redis;
      redis.disconnect();
      // A peer that is silent would never end the connection.
      stream?.destroy?.();
    },
  };
}
