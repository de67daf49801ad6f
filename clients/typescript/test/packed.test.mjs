// What a user gets: the package is packed, installed in an empty project, and the blocks of its pages run there from top to
// bottom, strictly typed, on a real server.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startServer } from './parts/servers.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => join(here, 'node_modules/.bin', name);

let dir, project, packed, server;

function run(program, args, options) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', ...options });
  assert.ok(status === 0, `${program} ${args.join(' ')}: ${error ?? `${stdout}${stderr}`}`);
  return stdout + stderr;
}

before(async () => {
  dir = mkdtempSync(join(tmpdir(), 'crieur-packed-'));
  server = await startServer('valkey');
  // Other tests read dist/ meanwhile, and packing makes it anew: so a copy is packed.
  const copy = join(dir, 'package');
  cpSync(here, copy, { recursive: true, filter: (path) => !/node_modules|dist$|\/examples\/|\.tgz$/.test(path) });
  symlinkSync(join(here, 'node_modules'), join(copy, 'node_modules'));
  run('npm', ['pack', '--silent'], { cwd: copy });
  packed = join(copy, readdirSync(copy).find((name) => name.endsWith('.tgz')) ?? 'no archive');
  project = join(dir, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'a-project', private: true, type: 'module' }));
  // The package needs nothing else, so nothing is asked of a registry. The clients are those that are here.
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', packed], { cwd: project });
  for (const name of ['ioredis', '@upstash/redis', '@types/node']) {
    mkdirSync(dirname(join(project, 'node_modules', name)), { recursive: true });
    symlinkSync(join(here, 'node_modules', name), join(project, 'node_modules', name));
  }
});
after(async () => {
  await server.stop();
  rmSync(dir, { recursive: true, force: true });
});

test('publint and attw find nothing', () => {
  assert.match(run(bin('publint'), ['--strict', packed], { cwd: project }), /All good!/);
  // Ends with an error for each problem but those of CommonJS, which an ESM package has by its nature.
  run(bin('attw'), [packed, '--profile', 'esm-only'], { cwd: project });
});

test('the files are those that a user needs', () => {
  const files = readdirSync(join(project, 'node_modules/crieur-cache'));
  const wanted = ['CHANGELOG.md', 'LICENSE-APACHE', 'LICENSE-MIT', 'README.fr.md', 'README.md', 'dist', 'docs', 'package.json'];
  assert.deepEqual(files.sort(), wanted);
});

/** What the blocks take for granted: the user's database and payment. The client of `store` is closed at the end. */
const PRELUDE = `
import { Redis as Client } from 'ioredis';
import { fromIoredis as over } from 'crieur-cache/ioredis';
const rowsOf = async (signal: AbortSignal) => ({ data: [{ id: 1, aborted: signal.aborted }], error: null as Error | null });
const supabase = { from: (_: string) => ({ select: () => ({ eq: (_: string, __: string) => ({ abortSignal: rowsOf }) }) }) };
const pay = async (given: { signal: AbortSignal; fence: number }) => given.fence;
const store = over(new Client(process.env.REDIS_URL!, { maxRetriesPerRequest: 0 }));
`;

/** Each block as a function of its own, with the imports of all at the top; the names that it declares are its answer. */
function program(blocks) {
  const imports = new Set();
  const functions = blocks.map((block, index) => {
    const lines = block.split('\n');
    lines.filter((line) => line.startsWith('import ')).forEach((line) => imports.add(line));
    const rest = lines.filter((line) => !line.startsWith('import '));
    const names = rest.map((line) => /^const (\w+)/.exec(line)?.[1]).filter(Boolean);
    return `async function block${index}() {\n${rest.join('\n')}\nreturn { ${names.join(', ')} };\n}`;
  });
  return [...imports, PRELUDE, ...functions].join('\n');
}

for (const page of ['README.md', 'README.fr.md'])
  test(`the blocks of ${page} run from top to bottom`, async () => {
    await server.admin.flushall();
    const text = readFileSync(join(project, 'node_modules/crieur-cache', page), 'utf8');
    const blocks = [...text.matchAll(/^```ts\n([^]*?)^```/gm)].map(([, block]) => block);
    assert.equal(blocks.length, 3, 'read, environment, locks');
    const archives = [...text.matchAll(/\S+\.tgz/g)].map(([path]) => path.split('/').at(-1));
    assert.ok(archives.length > 0 && archives.every((name) => packed.endsWith(`/${name}`)), `${archives}, and not ${packed}`);
    const ends = `
const first: any = await block0();
const again: any = await block0();
await block1();
const { locks, result }: any = await block2();
console.log(JSON.stringify({ rows: [first.rows, again.rows], result }));
console.log(await getOrSetCache('k', async () => 'row', { namespace: 'env', ttl: 'list' }), await invalidateCacheBatch(['env:k']));
console.log((await withLock('x', async () => 'worked')).success);
const ends = await import('crieur-cache/env');
await Promise.all([first.cache.close(), again.cache.close(), ends.closeCache(), store.close?.()]);
`;
    writeFileSync(join(project, 'page.ts'), program(blocks) + ends);
    const tsc = join(here, 'node_modules/typescript/bin/tsc');
    const options = ['--strict', '--target', 'es2022', '--module', 'nodenext', '--types', 'node', '--lib', 'es2022,esnext.disposable,dom'];
    run(process.execPath, [tsc, ...options, 'page.ts'], { cwd: project });
    const env = { PATH: process.env.PATH, REDIS_URL: `redis://127.0.0.1:${server.port}` };
    // It ends by itself: nothing is left open.
    const said = run(process.execPath, ['page.js'], { cwd: project, env, timeout: 300_000 });
    for (const event of ['MISS', 'SET  ', 'HIT ']) assert.match(said, new RegExp(`\\[CACHE\\] ${event} +\\| properties:all_public`), said);
    const rows = '[{"id":1,"aborted":false}]';
    assert.match(said, new RegExp(`"rows":\\[${rows.replace(/[[\]]/g, '\\$&')},`), said);
    assert.match(said, /"result":\{"success":true,"data":\d+,"fence":\d+\}/);
    assert.match(said, /\nrow .*\ntrue\n/);
    assert.equal(await server.admin.get('properties:all_public'), `V${rows}`);
    const ttl = await server.admin.ttl('properties:all_public');
    assert.ok(ttl > 200 && ttl <= 300, `${ttl}`);
    assert.equal(await server.admin.exists('env:k', 'lock:payment:lease456', 'lock:x'), 0);
  });
