// Tries each step of the protocol, on a key of its own that has a TTL and is gone at the end.

import { GIVE_BACK, STORE_IN_KEY, TAKE } from './lua.js';
import { messageOf, nothing, random, within } from './small.js';
import type { Probe, Store } from './types.js';

/** All steps together take no longer. */
const ALL_MS = 5_000;

/** `before` stands before the key; `isScript`: the lease is taken by script. Never rejects. */
export async function probe(
  store: Store | null,
  before: string,
  isScript: boolean,
  markKey: string | undefined,
  seconds: number | undefined,
): Promise<Probe> {
  const result: Probe = { ok: false, steps: [] };
  const own = 'L' + random();
  const key = `${before}crieur-cache:test:${own}`;
  const send: Store['send'] = async (...command) => {
    if (store) return store.send(...command);
    throw new Error('no cache');
  };

  /** The answer begins with what is wanted. */
  async function step(name: string, wanted: string, command: string[], check?: (reply: string) => void) {
    const start = performance.now();
    let reply = '';
    let error;
    try {
      reply = String(await send(...command));
      if (!reply.startsWith(wanted)) throw new Error(`the answer is not ${wanted}`);
      check?.(reply);
    } catch (thrown) {
      error = messageOf(thrown);
    }
    result.steps.push({ name, ok: !error, ms: performance.now() - start, ...(error && { error }) });
    return reply;
  }

  async function all() {
    await step('PING', 'PONG', ['PING']);
    await step('SET', 'OK', ['SET', key, own, 'EX', '10']);
    await step('GET', own, ['GET', key]);
    await step('EXISTS', '1', ['EXISTS', key]);
    await step('DEL', '1', ['DEL', key]);
    const lease = isScript
      ? await step('EVAL instead of NX', own, ['EVAL', TAKE, '1', key, own, '10000'])
      : (await step('SET NX GET', 'null', ['SET', key, own, 'NX', 'GET', 'EX', '10']), own);
    await step('EVAL store', '1', ['EVAL', STORE_IN_KEY, '1', key, lease, own, '10']);
    await step('EVAL give back', '1', ['EVAL', GIVE_BACK, '1', key, own]);
    if (markKey)
      await step('mark', '{', ['GET', markKey], (reply) => {
        const { at, lsn } = JSON.parse(reply);
        const silentFor = Date.now() / 1000 - at;
        result.mark = { at, lsn, silentFor };
        if (!(silentFor <= seconds!)) throw new Error(`silent for ${silentFor} s`);
      });
    result.ok = result.steps.every(({ ok }) => ok);
  }

  await within(all(), ALL_MS).catch(nothing);
  // Whatever failed half-way.
  await within(send('DEL', key), 500).catch(nothing);
  return result;
}
