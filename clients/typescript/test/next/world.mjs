// What stands around the Next.js example: a copy of it as a user has it, PostgreSQL, crieur, and `next start`.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, repository } from '../parts/servers.mjs';
import { until } from '../parts/waiting.mjs';

const client = join(repository, 'clients/typescript');
export const example = join(client, 'examples/next');
const target = process.env.CARGO_TARGET_DIR ?? join(repository, 'target');
/** Nothing of this shell's environment: it may hold the address of a real database. */
const clean = { PATH: process.env.PATH, HOME: process.env.HOME, NEXT_TELEMETRY_DISABLED: '1' };

const ends = [];
/** What must not outlive this process, however it ends. */
const atExit = new Set();
process.on('exit', () => [...atExit].reverse().forEach((end) => end()));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** Undoes all that was started, the last first. */
export async function endWorld() {
  for (const end of ends.splice(0).reverse()) await end();
}

/** Says what is missing, and how to get it. */
export function missing() {
  const server = postgresBin();
  return [
    [server, 'no PostgreSQL 14 or newer in /usr/lib/postgresql: run tests/setup.sh'],
    [existsSync(join(target, 'debug/crieur')), `no ${join(target, 'debug/crieur')}: run cargo build --features failpoints --bin crieur`],
    [existsSync(join(client, 'dist/env.js')), 'the client is not built: run npm run build in clients/typescript'],
    [existsSync(join(example, 'node_modules/next')), 'the example has no node_modules: run tests/setup.sh, or npm ci in clients/typescript/examples/next'],
  ].filter(([found]) => !found).map(([, what]) => what);
}

// --- The application --------------------------------------------------------------------------------------------------

/** A copy of an application in which `crieur-cache` is what `npm pack` makes of these sources now. */
export function project(from = example) {
  mkdirSync(target, { recursive: true });
  const dir = mkdtempSync(join(target, 'next-example-'));
  const remove = () => rmSync(dir, { recursive: true, force: true });
  ends.push(remove);
  atExit.add(remove);
  for (const name of readdirSync(from))
    if (!name.startsWith('.next') && name !== 'node_modules') cpSync(join(from, name), join(dir, name), { recursive: true });
  // Hard links where that is possible, because these are 370 MB.
  const modules = join(example, 'node_modules');
  if (spawnSync('cp', ['-al', modules, dir]).status !== 0) execFileSync('cp', ['-a', modules, dir]);
  const installed = join(dir, 'node_modules/crieur-cache');
  rmSync(installed, { recursive: true, force: true });
  mkdirSync(installed);
  const packed = execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', dir], { cwd: client, encoding: 'utf8' });
  execFileSync('tar', ['xzf', join(dir, packed.trim()), '-C', installed, '--strip-components=1']);
  return dir;
}

const next = (dir, ...args) => [process.execPath, [join(dir, 'node_modules/next/dist/bin/next'), ...args]];
const folder = (mode) => ({ CACHE_COMPONENTS: `${mode}`, DIST_DIR: mode ? '.next' : '.next-without' });

/** `next build`. Answers what it said. */
export async function build(dir, mode, env) {
  const [program, args] = next(dir, 'build');
  const child = spawn(program, args, { cwd: dir, env: { ...clean, ...folder(mode), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  atExit.add(() => child.kill('SIGKILL'));
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`next build ended with ${code}:\n${said}`);
  return said;
}

/** `next start`. */
export async function start(dir, mode, env) {
  const port = await freePort();
  const [program, args] = next(dir, 'start', '-p', `${port}`, '-H', '127.0.0.1');
  const child = spawn(program, args, {
    cwd: dir, detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { ...clean, ...folder(mode), CRIEUR_CACHE_LOG: '1', ...env },
  });
  const ended = once(child, 'exit');
  const kill = () => {
    if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  const app = {
    said: '',
    url: `http://127.0.0.1:${port}`,
    async page(path) {
      const answer = await fetch(app.url + path, { signal: AbortSignal.timeout(30_000) });
      return answer.text();
    },
    async stop() {
      kill();
      await ended;
    },
  };
  atExit.add(kill);
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (app.said += text));
  ends.push(app.stop);
  await until(() => {
    if (child.exitCode !== null) throw new Error(`next start ended:\n${app.said}`);
    return app.said.includes('Ready');
  }, 'next start is ready');
  return app;
}

/** Somebody who counts those who come, and answers nobody. */
export async function counter() {
  const here = { count: 0 };
  const server = createServer((socket) => (here.count++, socket.destroy()));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(() => server.close());
  return Object.assign(here, { address: `127.0.0.1:${server.address().port}` });
}

// --- PostgreSQL and crieur --------------------------------------------------------------------------------------------

function postgresBin() {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).filter((name) => Number(name) >= 14) : [];
  const newest = versions.sort((a, b) => b - a)[0];
  return newest && join(root, newest, 'bin');
}

/** A server with the tables of an application: `{ url, sql }`. The client is that of `dir`. */
export async function database(dir, schema = join(dir, 'schema.sql')) {
  const bin = postgresBin();
  const asPostgres = process.getuid() === 0 ? ['runuser', '-u', 'postgres', '--'] : [];
  const data = mkdtempSync(join(tmpdir(), 'crieur-next-'));
  chmodSync(data, 0o777);
  const run = (...command) => spawnSync([...asPostgres, ...command][0], [...asPostgres, ...command].slice(1), { encoding: 'utf8', cwd: '/' });
  const made = run(join(bin, 'initdb'), '-D', join(data, 'data'), '-A', 'trust', '-U', 'postgres', '-E', 'UTF8', '--no-sync');
  if (made.status !== 0) throw new Error(made.stderr);
  const port = await freePort();
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: data, wal_level: 'logical', fsync: 'off' };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const command = [...asPostgres, join(bin, 'postgres'), '-D', join(data, 'data'), '-p', `${port}`, ...options];
  const child = spawn(command[0], command.slice(1), { stdio: 'ignore', cwd: '/' });
  const ended = once(child, 'exit');
  const stop = () => {
    if (child.exitCode === null) run(join(bin, 'pg_ctl'), '-D', join(data, 'data'), '-m', 'immediate', 'stop');
    rmSync(data, { recursive: true, force: true });
  };
  atExit.add(stop);
  ends.push(async () => {
    stop();
    await ended;
  });
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`;
  const postgres = createRequire(join(dir, 'package.json'))('postgres');
  const sql = postgres(url, { max: 5, onnotice: () => {} });
  ends.push(() => sql.end({ timeout: 1 }));
  await until(() => sql`SELECT 1`.then(() => true, () => false), 'PostgreSQL answers');
  await sql.unsafe(readFileSync(schema, 'utf8'));
  return { url, sql };
}

/** What crieur says of its keys. */
export const reference = (page) => execFileSync(join(target, 'debug/crieur'), ['reference', page], { encoding: 'utf8' });

/** `crieur run` with the configuration of the example, or of another application. `isNew`: the cache is not known yet. */
export async function crieur(slot, env, from = example, { isNew = true } = {}) {
  const program = join(target, 'debug/crieur');
  const config = ['--config', join(from, 'crieur.toml')];
  const all = { ...clean, ...env, CRIEUR__POSTGRES__SLOT: slot };
  if (isNew) execFileSync(program, ['setup', ...config], { env: all, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  const child = spawn(program, ['run', ...config], { env: all, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'exit');
  const daemon = {
    said: '',
    async stop() {
      child.kill();
      await ended;
    },
  };
  atExit.add(() => child.kill('SIGKILL'));
  child.stderr.on('data', (text) => (daemon.said += text));
  ends.push(daemon.stop);
  await until(() => {
    if (child.exitCode !== null) throw new Error(`crieur run ended:\n${daemon.said}`);
    return daemon.said.includes('replication started') && (!isNew || daemon.said.includes('sweep finished'));
  }, 'crieur streams, and has swept a cache that it does not know');
  return daemon;
}
