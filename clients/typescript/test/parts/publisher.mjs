// A daemon as `docs/memory.md` has it: deletes and says so, beats, and writes its mark.

import { randomUUID } from 'node:crypto';
import { sleep } from './waiting.mjs';

export const CHANNEL = 'crieur:keys';

/** `admin`: a client of the cache. One thing happens after the other. */
export function publisher(admin, { slot = 'crieur', channel = CHANNEL, beatMs = 40 } = {}) {
  let epoch = randomUUID();
  let n = 0;
  let isBeating = true;
  let queue = Promise.resolve();
  const inTurn = (work) => (queue = queue.then(work));
  const text = (more) => JSON.stringify({ v: 1, slot, epoch, n: ++n, keys: [], ...more });
  const mark = (published = { epoch, n }) =>
    admin.set(`crieur:mark:${slot}`, JSON.stringify({ slot, at: Math.floor(Date.now() / 1000), nonce: randomUUID(), published }), 'EX', 600);

  const daemon = {
    say: (more) => inTurn(() => admin.publish(channel, text(more))),
    /** Deletes, and answers when it was done. */
    delete: (...keys) => inTurn(() => admin.pipeline().unlink(...keys).publish(channel, text({ keys })).exec()),
    /** Deletes, and the connection breaks before it is said. */
    deleteUnsaid: (...keys) => inTurn(() => admin.unlink(...keys)),
    /** A message that nobody gets. */
    lose: () => inTurn(() => void text()),
    restart: () => inTurn(() => void ([epoch, n] = [randomUUID(), 0])),
    raw: (message) => inTurn(() => admin.publish(channel, message)),
    mark: (published) => inTurn(() => mark(published)),
    unmark: () => inTurn(() => admin.del(`crieur:mark:${slot}`)),
    last: () => ({ epoch, n }),
    beat: () => inTurn(async () => (await mark(), await admin.publish(channel, text()))),
    pause: () => ((isBeating = false), queue),
    resume: () => (isBeating = true),
    async stop() {
      isBeating = undefined;
      await beats;
      await queue;
    },
  };
  const beats = (async () => {
    while (isBeating !== undefined) {
      if (isBeating) await daemon.beat();
      await sleep(beatMs);
    }
  })();
  return daemon;
}
