// A store over the REST client of Upstash. The client's class is a parameter: whoever calls this imports it.

import { isDigest, messageOf, within } from './small.js';
import type { Reply, Store } from './types.js';

/** Where the database is. */
export interface RestOptions {
  url: string;
  token: string;
  /** Milliseconds for one command. 500. */
  timeout?: number;
}

/** Of the client's errors, what may be logged: they name the whole command, or quote the answer. */
function plain(error: unknown) {
  if (isDigest(error)) return error;
  const said = messageOf(error).split(', command was:')[0]!;
  const isJson = (error as any)?.name === 'SyntaxError' || /JSON/.test(String((error as any)?.name));
  return new Error(isJson ? 'the answer is not JSON' : said);
}

/** The client is made here, because six of these cannot be read back from one that is given. */
export function restStore(Client: new (config: any) => any, { url, token, timeout = 500 }: RestOptions): Store {
  const redis = new Client({
    url,
    token,
    // `false` would send twice.
    retry: { retries: 0 },
    // A signal that is no function turns a command that was given up on into the answer null. Our own timer is first.
    signal: () => AbortSignal.timeout(timeout + 50),
    automaticDeserialization: false,
    enableAutoPipelining: false,
    enableTelemetry: false,
    responseEncoding: false,
    cache: 'no-store',
  });
  return {
    timeout,
    resends: false,
    async send(...command) {
      try {
        // A timer of ours, because that of AbortSignal.timeout keeps no process alive.
        const reply: Reply | undefined = await within(redis.exec(command), timeout);
        if (reply === undefined) throw Error(`no answer in ${timeout} ms, or one without a result`);
        return reply;
      } catch (error) {
        throw plain(error);
      }
    },
  };
}
