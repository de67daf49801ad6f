// Waiting for conditions, never for a time.

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

/** A promise and its ends. */
export function gate() {
  let open, fail;
  const promise = new Promise((resolve, reject) => ([open, fail] = [resolve, reject]));
  return { promise, open, fail };
}
