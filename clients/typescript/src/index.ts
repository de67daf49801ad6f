// The package: a cache whose reads leave nothing stale, and locks.

export { createCache } from './cache.js';
export { createLocks, LockError } from './locks.js';
export { consoleLog } from './log.js';
export type * from './types.js';
