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
    throw Error('there is no cache');
  };

  const start = performance.now();
  let isOver = false;

  /** The answer begins with what is wanted. */
  async function step(name: string, wanted: string, command: string[], check?: (reply: string) => void) {
    const begun = performance.now();
    let reply = '';
    let error;
    if (isOver) return reply;
    try {
      const answer = await within(send(...command), ALL_MS + start - begun);
      isOver = answer === undefined;
      reply = String(answer);
      if (!reply.startsWith(wanted)) throw Error(isOver ? 'no answer in 5 s' : `no ${wanted}`);
      check?.(reply);
    } catch (thrown) {
      error = messageOf(thrown);
    }
    result.steps.push({ name, ok: !error, ms: performance.now() - begun, ...(error && { error }) });
    return reply;
  }

  await step('PING', 'PONG', ['PING']);
  await step('SET', 'OK', ['SET', key, own, 'EX', '10']);
  await step('GET', own, ['GET', key]);
  await step('EXISTS', '1', ['EXISTS', key]);
  await step('DEL', '1', ['DEL', key]);
  const lease = isScript
    ? await step('EVAL for NX', own, ['EVAL', TAKE, '1', key, own, '10000'])
    : (await step('SET NX GET', 'null', ['SET', key, own, 'NX', 'GET', 'EX', '10']), own);
  await step('EVAL store', '1', ['EVAL', STORE_IN_KEY, '1', key, lease, own, '10']);
  await step('EVAL give back', '1', ['EVAL', GIVE_BACK, '1', key, own]);
  if (markKey)
    await step('mark', '{', ['GET', markKey], (reply) => {
      const { at, lsn } = JSON.parse(reply);
      const silentFor = Date.now() / 1000 - at;
      result.mark = { at, lsn, silentFor };
      if (!(silentFor <= seconds!)) throw Error(`silent for ${silentFor} s`);
    });
  result.ok = result.steps.every(({ ok }) => ok);
  // Whatever failed half-way.
  await within(send('DEL', key), 500).catch(nothing);
  return result;
}
