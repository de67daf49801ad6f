// A store in memory that judges each command: for what happens around a server, not inside of one.

import { GIVE_BACK, LOCK_RENEW, LOCK_TAKE, STORE_IN_KEY } from '../../dist/lua.js';

/** `judge(command)` answers instead of the store, unless it answers `undefined`. */
export function memory(judge = () => undefined) {
  const held = new Map();
  const sent = [];
  const scripts = {
    [STORE_IN_KEY]: (key, lease, text) => (held.get(key) === lease ? (held.set(key, text), 1) : 0),
    [GIVE_BACK]: (key, lease) => (held.get(key) === lease ? (held.delete(key), 1) : 0),
    [LOCK_TAKE]: (key, token) => (held.has(key) ? [0, 1_000] : (held.set(key, token), [1, '7'])),
    [LOCK_RENEW]: (key, token) => Number(held.get(key) === token),
  };
  function run([name, key, ...rest]) {
    if (name === 'PING') return 'PONG';
    if (name === 'GET') return held.get(key) ?? null;
    if (name === 'DEL') return Number(held.delete(key));
    if (name === 'SET' && rest.includes('NX') && held.has(key)) return held.get(key);
    if (name === 'SET') return held.set(key, rest[0]), rest.includes('NX') ? null : 'OK';
    if (name === 'EVAL') return scripts[key](...rest.slice(1));
    throw new Error(`memory: ${name}`);
  }
  return {
    held,
    sent,
    async send(...command) {
      sent.push(command);
      const said = await judge(command);
      return said === undefined ? run(command) : said;
    },
  };
}
