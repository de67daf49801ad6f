// The SQL of docs/once.sql on a real PostgreSQL: a payment and a booking happen once, without any lock.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { freePort } from './parts/servers.mjs';
import { until } from './parts/waiting.mjs';

const roots = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql') : [];
const version = roots.filter((name) => Number(name) >= 14).sort((a, b) => b - a)[0];
const bin = `/usr/lib/postgresql/${version}/bin`;
// A server of PostgreSQL does not run as root.
const asPostgres = process.getuid() === 0 ? ['runuser', '-u', 'postgres', '--'] : [];
const run = (...command) => {
  const [program, ...args] = [...asPostgres, ...command];
  return spawnSync(program, args, { encoding: 'utf8', cwd: '/' });
};

let dir, port, server;
const psql = (...statements) =>
  run(`${bin}/psql`, '-h', dir, '-p', `${port}`, '-d', 'postgres', '-qAtX', '-v', 'ON_ERROR_STOP=1', ...statements.flatMap((text) => ['-c', text]));

before(async () => {
  assert.ok(version, 'no PostgreSQL in /usr/lib/postgresql: run tests/setup.sh');
  dir = mkdtempSync(join(tmpdir(), 'crieur-once-'));
  chmodSync(dir, 0o777);
  port = await freePort();
  const made = run(`${bin}/initdb`, '-D', join(dir, 'data'), '-A', 'trust', '--no-sync');
  assert.equal(made.status, 0, made.stderr);
  const options = ['-D', join(dir, 'data'), '-p', `${port}`, '-k', dir, '-c', 'listen_addresses=', '-c', 'fsync=off'];
  const [program, ...args] = [...asPostgres, `${bin}/postgres`, ...options];
  server = spawn(program, args, { stdio: 'ignore', cwd: '/' });
  await until(() => psql('SELECT 1').stdout === '1\n', 'PostgreSQL answers');
  const sql = readFileSync(new URL('../docs/once.sql', import.meta.url), 'utf8');
  const done = psql(sql);
  assert.equal(done.status, 0, done.stderr);
});
after(async () => {
  const ended = new Promise((resolve) => server.once('exit', resolve));
  run(`${bin}/pg_ctl`, '-D', join(dir, 'data'), '-m', 'immediate', 'stop');
  await ended;
  rmSync(dir, { recursive: true, force: true });
});

test('a payment is recorded once, whoever tries again', () => {
  const insert = (key) =>
    `INSERT INTO payment_intents (idempotency_key, lease_id, period, amount) VALUES ('${key}', 456, '2026-11-01', 150000)
     ON CONFLICT DO NOTHING RETURNING state`;
  assert.equal(psql(insert('click-1')).stdout, 'started\n');
  assert.equal(psql(insert('click-1')).stdout, '', 'the same click again');
  assert.equal(psql(insert('click-2')).stdout, '', 'another click, the same month');
  assert.equal(psql('SELECT count(*) FROM payment_intents').stdout, '1\n');
});

test('an older holder of the lock changes nothing', () => {
  assert.equal(psql("SELECT settle_payment('click-1', 'paid', 20)").stdout, 't\n');
  assert.equal(psql("SELECT settle_payment('click-1', 'failed', 10)").stdout, 'f\n');
  assert.equal(psql('SELECT state FROM payment_intents').stdout, 'paid\n');
});

test('a visit is booked once', () => {
  const book = (from, to) =>
    psql(`INSERT INTO visit_bookings (property_id, during) VALUES (7, '[2026-12-01 ${from}, 2026-12-01 ${to})')`);
  assert.equal(book('14:00', '15:00').status, 0);
  const second = book('14:30', '15:30');
  assert.notEqual(second.status, 0);
  assert.match(second.stderr, /visit_bookings_property_id_during_excl/);
  assert.equal(book('15:00', '16:00').status, 0);
  psql("UPDATE visit_bookings SET state = 'cancelled' WHERE lower(during) = '2026-12-01 14:00'");
  assert.equal(book('14:00', '15:00').status, 0, 'a cancelled visit frees its time');
  const slot = "INSERT INTO slot_bookings VALUES (7, '14h') ON CONFLICT DO NOTHING RETURNING slot";
  assert.deepEqual([psql(slot).stdout, psql(slot).stdout], ['14h\n', '']);
});
