// How large the package is for who bundles it: core and one adapter, and the same with locks. Fails above the limits.

import { build } from 'esbuild';
import { gzipSync } from 'node:zlib';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const core = "export { createCache, consoleLog } from './dist/index.js';";
const locks = "export { createLocks, LockError } from './dist/index.js';";
const tcp = "export { fromIoredis } from './dist/ioredis.js';";
const rest = "export { fromUpstash } from './dist/upstash.js';";
const bundles = [
  ['core + ioredis', core + tcp, 4096],
  ['core + upstash', core + rest, 4096],
  ['core + locks + ioredis', core + locks + tcp, 6144],
  ['core + locks + upstash', core + locks + rest, 6144],
];

for (const [name, contents, most] of bundles) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: root },
    bundle: true,
    minify: true,
    format: 'esm',
    write: false,
    external: ['ioredis', '@upstash/redis'],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${name}: ${size} of ${most} bytes`);
  if (size > most) process.exitCode = 1;
}
