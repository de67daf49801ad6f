// Real servers on free loopback ports, which end with the test process.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Redis6 from 'ioredis';
import Redis5 from 'ioredis5';
import { until } from './waiting.mjs';

export const repository = fileURLToPath(new URL('../../../..', import.meta.url));

/** Where the other server versions are, as `tests/setup.sh` has it. */
const servers = join(process.env.CARGO_TARGET_DIR ?? join(repository, 'target'), 'servers');
const inPath = (name) => spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).stdout.trim();
const first = (...paths) => paths.find((path) => path && existsSync(path));

export const binaries = {
  valkey: first(process.env.VALKEY_SERVER, join(servers, 'valkey-9/valkey-server'), inPath('valkey-server')),
  redis: first(process.env.REDIS_SERVER, inPath('redis-server')),
};

/** A port that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** What ends each server, and takes its folder away. */
const running = new Set();
process.on('exit', () => running.forEach((end) => end()));
// An end from outside is one with `exit`, too.
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => process.exit(1));

/** Starts a server, `valkey` or `redis`, on a free port or on this one. */
export async function startServer(kind = 'valkey', { port, password } = {}) {
  const binary = binaries[kind] ?? binaries.redis ?? binaries.valkey;
  if (!binary) throw new Error('no redis-server and no valkey-server: run tests/setup.sh');
  port ??= await freePort();
  const dir = mkdtempSync(join(tmpdir(), 'crieur-cache-'));
  const child = spawn(binary, ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', dir, ...(password ? ['--requirepass', password] : [])], {
    stdio: 'ignore',
  });
  const end = () => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  running.add(end);
  const ended = new Promise((resolve) => child.once('exit', resolve));
  ended.then(() => {
    running.delete(end);
    end();
  });
  const admin = new Redis6({ port, host: '127.0.0.1', password, maxRetriesPerRequest: null, retryStrategy: () => 20, lazyConnect: true });
  admin.on('error', () => {});
  await admin.connect().catch(() => {});
  await until(() => admin.status === 'ready', `${binary} answers on port ${port}`);
  return {
    kind,
    port,
    admin,
    child,
    async stop() {
      admin.disconnect();
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Both versions of the client. */
export const clients = { ioredis5: Redis5, ioredis6: Redis6 };

/** A client that keeps no process alive by a test's failure: `close` it. */
export function connect(version, port, options = {}) {
  return new clients[version]({ host: '127.0.0.1', port, ...options });
}
