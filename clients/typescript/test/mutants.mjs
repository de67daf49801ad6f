// Each guard of the client is taken out in turn, in a copy: at least the test that is named must notice. A run of tests that
// did not end within its limit has noticed nothing, unless the mutant is one that hangs.
//
//   node test/mutants.mjs [word of a name]

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { repository } from './parts/servers.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));

const mutants = [
  {
    name: 'join by key', file: 'cache.ts',
    from: 'flight && (!flight.begun || flight.begun > called)', to: 'flight',
    test: ['read', 'a call behind an invalidation joins no older read'],
  },
  {
    name: 'no epoch', file: 'ioredis.ts', from: "  redis.on('close', lose);\n", to: '',
    test: ['faults', 'a take that arrives late stores nothing: \\{\\}'],
  },
  {
    name: 'retry: false', file: 'rest.ts', from: 'retry: { retries: 0 }', to: 'retry: false',
    test: ['upstash', 'one request is sent'],
  },
  {
    name: 'plain signal', file: 'rest.ts',
    from: [['signal: () => AbortSignal.timeout(timeout + 50)', 'signal: AbortSignal.timeout(timeout)'], ['within(redis.exec(command), timeout)', 'redis.exec(command)']],
    test: ['upstash', 'arrives behind the delete stores nothing|half an answer, silence'],
  },
  {
    name: 'fetch before take', file: 'cache.ts', from: 'taken = await take();', to: 'const early = await run(fetcher); fetcher = () => early; taken = await take();',
    test: ['read', 'the row is read behind the lease'],
  },
  {
    name: 'no give-back', file: 'cache.ts', from: "else if (lease) await ask('EVAL', GIVE_BACK, '1', leaseKey, lease);", to: '',
    test: ['read', 'null is a value|may not be stored'],
  },
  {
    name: 'no timeout', file: 'ioredis.ts', from: 'go(gone());', to: '',
    test: ['faults', 'refused, silent, cut'],
  },
  {
    name: 'store without compare', file: 'lua.ts',
    from: 'STORE_IN_KEY =\n  "if redis.call(\'GET\', KEYS[1]) ~= ARGV[1] then return 0 end ', to: 'STORE_IN_KEY =\n  "',
    test: ['read', 'a store behind a delete is refused'],
  },
  {
    name: 'release without token', file: 'lua.ts',
    from: 'GIVE_BACK =\n  "if redis.call(\'GET\', KEYS[1]) ~= ARGV[1] then return 0 end ', to: 'GIVE_BACK =\n  "',
    test: ['locks', 'frees nobody else|taken away is told'],
  },
  {
    name: 'errors stored', file: 'cache.ts', from: 'value = await run(fetcher)', to: 'value = await run(fetcher).catch((error) => ({ error: String(error) }))',
    test: ['read', "caller's alone"],
  },
  {
    name: 'errors shared', file: 'cache.ts', from: 'await within(land(), left / 2);', to: "await within(land(), left / 2); flight.settle(['null']);",
    also: [['flight.settle(shared);\n      if (map', "flight.settle(shared ?? ['null']);\n      if (map"]],
    test: ['read', "caller's alone"],
  },
  {
    name: 'no pause', file: 'ask.ts', from: 'until = performance.now() + ms;', to: '',
    test: ['faults', 'refused, silent, cut'],
  },
  {
    name: 'commands counted as losses', file: 'ask.ts', from: 'if (sent === losses) {\n          losses++;', to: '{',
    test: ['faults', 'one reset with five reads'],
  },
  {
    name: 'digests caught', file: 'small.ts', from: "typeof error?.digest === 'string'", to: 'false && error',
    test: ['faults', "framework's own errors"],
  },
  {
    name: 'the mark is not looked at', file: 'cache.ts', from: "typeof at !== 'number' || Date.now() / 1000 - at > silence.seconds", to: 'false',
    test: ['read', 'a silent crieur'],
  },
  {
    name: 'hit and miss of other shapes', file: 'cache.ts', from: 'value = codec.decode(text);\n            shared', to: 'shared',
    test: ['read', 'a hit answers the same'],
  },
  {
    name: 'a lock that is never told', file: 'locks.ts', from: 'else watch = setTimeout(lose', to: 'else watch = setTimeout(nothing',
    test: ['locks', 'an expired lock is told'],
  },
  {
    name: 'locks fail open', file: 'locks.ts', from: "return no('unavailable', messageOf(cause), { cause });", to: "return { success: true, data: await work(null as any), fence: 0 };",
    test: ['locks', 'no answer: closed'],
  },
  {
    name: 'route: no signature', file: 'next.ts', from: "if (await crypto.subtle.verify('HMAC', key, signature as Uint8Array<ArrayBuffer>, signed)) return true;", to: 'return true;',
    test: ['next', 'each byte'],
  },
  {
    name: 'route: any age', file: 'next.ts', from: 'Math.abs(now - at) <= TOLERANCE_SECONDS', to: 'at > 0',
    test: ['next', 'six minutes'],
  },
  {
    name: 'route: a message runs again', file: 'next.ts', from: 'if (done.has(name, now))', to: 'if (false)',
    test: ['next', 'comes again'],
  },
  {
    name: 'handler: a render across a delete', file: 'next-lua.ts', from: 'tonumber(at) > tonumber(ARGV[5])', to: 'false',
    test: ['handler', 'began before the delete'],
  },
  {
    name: 'handler: another clock', file: 'next-lua.ts', from: 'local fits = epoch == ARGV[4]', to: 'local fits = true',
    test: ['handler', 'a clock that was lost'],
  },
  {
    name: 'handler: the latest look', file: 'generations.ts', from: 'if (this.#readings[i]!.at <= moment)', to: 'if (moment)',
    test: ['handler', 'a background render'],
  },
  {
    name: 'handler: joined renders', file: 'generations.ts', from: 'const LEVELS = 4', to: 'const LEVELS = 1',
    test: ['handler', 'joined an older render'],
  },
  {
    name: 'handler: tags in percent', file: 'generations.ts', from: ".map(plainTag)", to: '',
    test: ['handler', 'letters of the application'],
  },
  {
    name: 'handler: the first look fails', file: 'next-handler.ts', from: 'if (this.#reading === undefined) this.#reading = null;', to: '',
    test: ['handler', 'first look had no answer'],
  },
  {
    name: 'memory: no numbers', file: 'feed.ts', from: 'n !== known.n + 1', to: 'false',
    test: ['memory', 'forgotten: number'],
  },
  {
    name: 'memory: no epochs', file: 'feed.ts', from: '!known || known.epoch !== epoch', to: '!known',
    test: ['memory', 'forgotten: epoch'],
  },
  {
    name: 'memory: no bound', file: 'feed.ts', from: 'now - speaker!.fresh <= boundMs', to: 'now >= 0',
    test: ['memory', 'a daemon that is silent'],
  },
  {
    name: 'memory: a message is new by itself', file: 'feed.ts', from: 'fresh: this.#pinged', to: 'fresh: Infinity',
    test: ['memory', 'a daemon that is silent'],
  },
  {
    name: 'memory: the mark is not compared', file: 'feed.ts', from: 'isGood = epoch === speaker.epoch && n <= speaker.n;', to: 'isGood = Boolean(epoch) || n > 0;',
    test: ['memory', 'names what was not heard'],
  },
  {
    name: 'memory: a delete voids no ticket', file: 'memory.ts', from: "for (const ticket of this.#tickets.get(key) ?? []) ticket.isVoid = true;", to: '',
    test: ['memory', 'not overtaken|while it was fetched'],
  },
  {
    name: 'memory: a flush voids no ticket', file: 'memory.ts', from: "for (const tickets of this.#tickets.values()) for (const ticket of tickets) ticket.isVoid = true;", to: '',
    test: ['memory', 'a flush between'],
  },
];

const wanted = process.argv[2] ?? '';
const copy = mkdtempSync(join(tmpdir(), 'crieur-mutants-'));
const package_ = join(copy, 'clients/typescript');
/** Of one run of tests, on a machine that does other things. */
const LIMIT_MS = 600_000;
/** Of one that is to hang. */
const HANGS_MS = 90_000;
const node = (args, options) => spawnSync(process.execPath, args, { cwd: package_, encoding: 'utf8', ...options });
const compile = () => node(['node_modules/typescript/bin/tsc', '-p', '.', '--noCheck']);

/** Whether a test noticed. */
function isNoticed({ name, file, from, to, also = [], hangs = false, test: [suite, pattern] }) {
  const path = join(package_, 'src', file);
  const source = readFileSync(join(here, 'src', file), 'utf8');
  let text = source;
  for (const [a, b] of [...(Array.isArray(from) ? from : [[from, to]]), ...also]) {
    if (!text.includes(a)) throw new Error(`${name}: ${file} has no ${a}`);
    text = text.replace(a, () => b);
  }
  writeFileSync(path, text);
  const built = compile();
  if (built.status !== 0) throw new Error(`${name}: ${built.error ?? built.stdout}`);
  const args = ['--test', '--test-reporter=tap', `--test-name-pattern=${pattern}`, `test/${suite}.test.mjs`];
  const run = node(args, { timeout: hangs ? HANGS_MS : LIMIT_MS });
  writeFileSync(path, source);
  const didEnd = run.status !== null;
  const noticed = [...(run.stdout ?? '').matchAll(/^not ok \d+ - (.*)$/gm)].map(([, title]) => title);
  const isDead = didEnd ? run.status !== 0 && noticed.length > 0 : hangs;
  const by = didEnd ? `"${noticed[0]}"` : 'tests that do not end';
  const why = didEnd ? `status ${run.status}` : `no end in ${LIMIT_MS / 1000} s`;
  console.log(isDead ? `noticed: ${name}, by ${by}` : `NOT NOTICED: ${name} (${why})`);
  return isDead;
}

try {
  cpSync(here, package_, { recursive: true, filter: (path) => !/node_modules|dist$/.test(path) });
  for (const [name, where] of [['node_modules', here]]) symlinkSync(join(where, name), join(package_, name));
  for (const name of ['lua', 'target', 'tests']) symlinkSync(join(repository, name), join(copy, name));
  for (const mutant of mutants) if (mutant.name.includes(wanted) && !isNoticed(mutant)) process.exitCode = 1;
} finally {
  rmSync(copy, { recursive: true, force: true });
}
