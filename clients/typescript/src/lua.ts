// The scripts of the protocol. `lua/` at the top of the repository is their one source; a test compares these texts with it.

/** Takes a lease that is another at each run. KEYS: the key of the lease. ARGV: own text, milliseconds. */
export const TAKE =
  "local found = redis.call('GET', KEYS[1]) if found then return found end local time = redis.call('TIME') local lease = ARGV[1] .. ':' .. time[1] .. ':' .. time[2] redis.call('SET', KEYS[1], lease, 'PX', ARGV[2]) return lease";

/** Stores if the lease in the key is still there. KEYS: K. ARGV: lease, text, seconds. */
export const STORE_IN_KEY =
  "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) return 1";

/** Stores if the lease beside the key is still there. KEYS: K, its lease. ARGV: lease, text, seconds. */
export const STORE_BESIDE =
  "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) redis.call('DEL', KEYS[2]) return 1";

/** Gives a lease back, or releases a lock. KEYS: its key. ARGV: lease or token. */
export const GIVE_BACK =
  "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])";

/** Takes a lock, or says how long another's stands. KEYS: its key. ARGV: token, milliseconds. */
export const LOCK_TAKE =
  "local found = redis.call('GET', KEYS[1]) if found and found ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) local time = redis.call('TIME') return {1, time[1] .. string.format('%06d', time[2])}";

/** Renews a lock that is still one's own. KEYS: its key. ARGV: token, milliseconds. */
export const LOCK_RENEW =
  "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])";
