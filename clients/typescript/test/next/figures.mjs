// From COMMIT to the pages of the example application, built and started, with crieur on a real PostgreSQL: figures, printed.
//
//   npm run figures:next            ROUNDS=40 is the number of changes
//
// What crieur is told stands in the example's crieur.toml, its echoes too. The cache's readers take leases.

import { execFileSync } from 'node:child_process';
import { startServer } from '../parts/servers.mjs';
import { timed, until } from '../parts/waiting.mjs';
import { post, relay, SECRET } from '../parts/webhook.mjs';
import { build, crieur, database, endWorld, missing, project, start } from './world.mjs';

const absent = missing();
if (absent.length) {
  console.error(absent.join('\n'));
  process.exit(1);
}

const rounds = Number(process.env.ROUNDS ?? 40);
const francs = (amount) => `${amount.toLocaleString('fr-FR').replace(/\s/g, ' ')} FCFA`;

/** The median, the least and the most. */
function spread(times) {
  const sorted = times.toSorted((a, b) => a - b);
  const [median, least, most] = [sorted[sorted.length >> 1], sorted[0], sorted.at(-1)].map((ms) => ms.toFixed(1));
  return `${median} (${least} to ${most})`;
}

const dir = project();
const { sql, url } = await database(dir);
const server = await startServer('valkey');
const env = { DATABASE_URL: url, REDIS_URL: `redis://127.0.0.1:${server.port}` };
await build(dir, true, env);
const app = await start(dir, true, { ...env, CRIEUR_WEBHOOK_SECRET: SECRET });
const hook = await relay();
hook.to = app.url;
const sink = { CRIEUR__SINKS__SITE__URL: hook.url, CRIEUR__SINKS__SITE__SECRET: SECRET };
const daemon = await crieur('crieur_figures', { ...env, CRIEUR__CACHE__ECHO: '', ...sink });

const plain = async (path) => (await app.page(path)).replaceAll('<!-- -->', '');
let price = 1_000_000;
/** Changes a price. */
const change = async () => (await sql`UPDATE properties SET price = ${++price} WHERE id = 1`, performance.now());
/** The catalogue has two functions, each with a cache of its own. */
const isShown = (page) => page.includes(francs(price)) && (!page.includes('Jusqu’à') || page.includes(`Jusqu’à ${francs(price)}`));

/** From COMMIT to a visitor who sees the price; of it what this visitor waits. */
async function shown(path, committed) {
  for (;;) {
    const { value: page, ms } = await timed(() => plain(path));
    if (isShown(page)) return { ms: performance.now() - committed, waits: ms };
  }
}

/** The page comes while nobody can read these tables. */
async function isKept(path, tables) {
  await until(async () => {
    const held = await sql.reserve();
    try {
      await held`BEGIN`;
      await held.unsafe(`LOCK TABLE ${tables} IN ACCESS EXCLUSIVE MODE`);
      const page = plain(path);
      let has = false;
      page.then(() => (has = true));
      const waits = async () => (await sql`SELECT count(*)::int AS n FROM pg_locks WHERE NOT granted`)[0].n > 0;
      return await until(async () => (has ? 'yes' : (await waits()) && 'no'), 'the page, or a read') === 'yes';
    } finally {
      await held`COMMIT`;
      held.release();
    }
  }, `${path} is kept`);
}

const load = () => execFileSync('cut', ['-d', ' ', '-f', '1-3', '/proc/loadavg'], { encoding: 'utf8' }).trim();
console.log(`${rounds} changes each, milliseconds, median (least to greatest); load of the machine ${load()}`);

for (const [path, tables, what] of [
  ['/biens/1', 'properties', 'a page of values in Redis, by deletes of keys'],
  ['/catalogue', 'properties, visit_bookings', 'a page that Next keeps, by the webhook'],
]) {
  const all = [];
  for (let i = 0; i < rounds; i++) {
    if (path === '/catalogue') await isKept(path, tables);
    else await until(async () => (await app.page(path), app.said.includes('[CACHE] HIT   | properties:detail:1 | ')), 'a hit');
    app.said = '';
    all.push(await shown(path, await change()));
  }
  const [took, waits] = [all.map(({ ms }) => ms), all.map(({ waits }) => waits)];
  console.log(`COMMIT to ${path}, ${what}: ${spread(took)}; of it the first visitor waits ${spread(waits)}`);
}

// A page whose making began before COMMIT and ended behind crieur's message. Only the first of the example's echoes, so that no
// echo of an earlier round comes in between.
await daemon.stop();
await crieur('crieur_across', { ...env, CRIEUR__CACHE__ECHO: '', ...sink, CRIEUR__SINKS__SITE__ECHO: '700ms' });
const waits = async () => (await sql`SELECT count(*)::int AS n FROM pg_locks WHERE NOT granted`)[0].n > 0;
const [across, kept] = [[], []];
for (let i = 0; i < rounds / 2; i++) {
  let [count, since] = [hook.done, performance.now()];
  await until(() => {
    if (hook.done !== count) [count, since] = [hook.done, performance.now()];
    return performance.now() - since > 1_500;
  }, 'crieur posts nothing');
  const held = await sql.reserve();
  await held`BEGIN`;
  await held`LOCK TABLE visit_bookings IN ACCESS EXCLUSIVE MODE`;
  // A render begins, reads the price, and waits at that table.
  await post(app, ['properties', 'visits']);
  const slow = plain('/catalogue');
  await until(waits, 'a render waits');
  const committed = await change();
  await until(() => hook.done > count, 'crieur has posted');
  await held`COMMIT`;
  held.release();
  await slow;
  kept.push(!isShown(await plain('/catalogue')));
  across.push((await shown('/catalogue', committed)).ms);
}
console.log(`COMMIT to /catalogue, rendered across it, the first echo after 700 ms: ${spread(across)}; Next kept the old page in ${kept.filter(Boolean).length} of ${kept.length}`);
console.log(`load of the machine ${load()}`);

hook.close();
await endWorld();
await server.stop();
process.exit(0);
