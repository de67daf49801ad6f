// What several parts need. Web APIs only.

/** Does nothing, and says nothing. */
export const nothing = () => {};

/** Errors with a text `digest` are a framework's own control flow: they pass through. */
export const isDigest = (error: any) => typeof error?.digest === 'string';

/** The message of whatever was thrown. */
export const messageOf = (error: any) => String(error?.message ?? error);

/** 128 random bits, as a text. */
export const random = () => crypto.getRandomValues(new Uint32Array(4)).join('.');

/** The promise, or nothing after so many milliseconds. The timer keeps the process alive until then. */
export const within = <V>(promise: Promise<V>, ms: number): Promise<V | undefined> =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms, undefined);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });

/** Tells whoever listens. What a listener throws changes nothing. */
export const teller =
  <E>(on: ((event: E) => unknown) | undefined) =>
  (event: E) => {
    try {
      (on?.(event) as any)?.catch?.(nothing);
    } catch {}
  };
