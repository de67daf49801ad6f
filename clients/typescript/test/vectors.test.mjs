// The bytes in the cache are those of clients/vectors.json, which the Rust client's tests read and write as well.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createCache, createLocks } from '../dist/index.js';
import { repository } from './parts/servers.mjs';

const file = join(repository, 'clients/vectors.json');
const skip = !existsSync(file);
const vectors = skip ? {} : JSON.parse(readFileSync(file, 'utf8'));
const hex = (text) => Buffer.from(text).toString('hex');
const text = (bytes) => Buffer.from(bytes, 'hex').toString();

/** A store of one process, which knows what the protocol sends. */
function memory() {
  const keys = new Map();
  const commands = [];
  const get = (key) => keys.get(key) ?? null;
  const send = async (name, ...args) => {
    commands.push([name, ...args]);
    if (name === 'GET') return get(args[0]);
    if (name === 'MGET') return args.map(get);
    if (name === 'SET') {
      const found = get(args[0]);
      const isNew = args.includes('NX');
      if (!isNew || found === null) keys.set(args[0], args[1]);
      return isNew && args.includes('GET') ? found : found === null || !isNew ? 'OK' : null;
    }
    if (name !== 'EVAL') return 0;
    const count = Number(args[1]);
    const [own, value] = args.slice(2 + count);
    const lease = args[1 + count];
    if (args[0].includes('TIME')) {
      keys.set(args[2], own);
      return [1, '1795887000123456'];
    }
    if (get(lease) !== own) return 0;
    keys.delete(lease);
    if (value !== undefined) keys.set(args[2], value);
    return 1;
  };
  return { keys, commands, send };
}

test('each value is written as these bytes, and read from them', { skip }, async () => {
  for (const { name, value, in_key, beside } of vectors.values)
    for (const [protocol, bytes] of [['key', in_key], ['companion', beside], ['plain', beside]]) {
      const store = memory();
      const cache = createCache({ store, protocol });
      assert.deepEqual(await cache.read('k', () => value), { value, from: 'miss' }, name);
      assert.equal(hex(store.keys.get('k')), bytes, `${name}, ${protocol}`);
      assert.deepEqual(await cache.read('k', () => assert.fail()), { value, from: 'hit' }, name);
    }
});

test('what others wrote is read', { skip }, async () => {
  for (const { name, value, in_key, beside } of vectors.read)
    for (const [protocol, bytes] of [['key', in_key], ['companion', beside]]) {
      const store = memory();
      store.keys.set('k', text(bytes));
      assert.deepEqual(await createCache({ store, protocol }).read('k', () => assert.fail()), { value, from: 'hit' }, name);
    }
});

test('keys are made of the same bytes', { skip }, async () => {
  for (const { namespace, key, stored, lease, grace } of vectors.keys) {
    const store = memory();
    const cache = createCache({ store, protocol: 'companion', ...(namespace !== undefined && { namespace }) });
    await cache.read(key, () => 1, { grace: 10 });
    const sets = store.commands.filter(([name]) => name === 'SET').map(([, name]) => hex(name));
    assert.deepEqual([hex([...store.keys.keys()].find((name) => hex(name) === stored) ?? ''), ...sets], [stored, lease, grace]);
  }
});

test('what is foreign is passed by', { skip }, async () => {
  for (const { text: name, in_key } of vectors.foreign) {
    const store = memory();
    store.keys.set('k', text(in_key));
    const { value, from } = await createCache({ store, waitMs: 0 }).read('k', () => 'row');
    assert.deepEqual([value, from], ['row', 'bypass'], name);
  }
});

test('a copy for grace, and the key of a lock', { skip }, async () => {
  for (const { stored_at_ms, text: json, bytes } of vectors.grace) {
    assert.equal(hex(`${stored_at_ms}:${json}`), bytes);
    const store = memory();
    store.keys.set('grace:{k}', text(bytes));
    const read = await createCache({ store }).read('k', () => Promise.reject(new Error('down')), { grace: 10 });
    assert.deepEqual([read.value, read.from], [JSON.parse(json), 'grace']);
  }
  for (const { name, key } of vectors.lock) {
    const store = memory();
    const lock = await createLocks({ store }).acquire(name);
    assert.equal(hex([...store.keys.keys()][0]), key);
    await lock.release();
  }
});
