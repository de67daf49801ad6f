// Waiting for conditions, never for a time.

import assert from 'node:assert/strict';
import { after } from 'node:test';

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until the condition holds, for 30 s. */
export async function until(condition, what) {
  const end = performance.now() + 30_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (performance.now() > end) throw new Error(`never happened: ${what}`);
    await sleep(5);
  }
}

/** What the promise gives, and after how many milliseconds. */
export async function timed(work) {
  const start = performance.now();
  const value = await work();
  return { value, ms: performance.now() - start };
}

/** A promise and its end. */
export function gate() {
  let open;
  const promise = new Promise((resolve) => (open = resolve));
  return { promise, open };
}

/** At the end of the tests of this file, no rejection was left to nobody. */
export function nothingIsUnhandled() {
  const unhandled = [];
  process.on('unhandledRejection', (error) => unhandled.push(error));
  after(() => assert.deepEqual(unhandled, []));
}
