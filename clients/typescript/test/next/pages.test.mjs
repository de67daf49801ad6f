// What Next keeps, expired: by keys that crieur deletes, over two instances of `next start` on one server, and by the route for
// crieur's messages, in Next's own cache. The test is the database, and does here what crieur does.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startServer } from '../parts/servers.mjs';
import { gate, timed, until } from '../parts/waiting.mjs';
import { post, SECRET } from '../parts/webhook.mjs';
import { build, counter, crieur, database, endWorld, missing, project, start } from './world.mjs';

const absent = missing();
if (absent.length) {
  console.error(absent.join('\n'));
  process.exit(1);
}

/** Of each kind of page: its path, the name of its row, and the tag that a change of the row expires. */
const PAGES = [
  { kind: "'use cache' in a page of the build", path: '/liste', name: 'liste', tag: 'ville-Thiès' },
  { kind: "'use cache' in a page of each request", path: '/bien/1', name: 'bien-1', tag: 'bien-1' },
  { kind: 'unstable_cache', path: '/ancien', name: 'ancien', tag: 'ancien' },
];

/** What the pages read: rows by name, or those of `from`. A read that is held has seen its row already. */
function source() {
  const rows = new Map();
  const held = new Map();
  const reads = new Map();
  const server = createServer(async (request, answer) => {
    const name = decodeURIComponent(request.url.slice(1));
    reads.set(name, (reads.get(name) ?? 0) + 1);
    const row = `ligne:${(await source.from?.(name)) ?? rows.get(name) ?? 0}.`;
    await held.get(name)?.promise;
    answer.end(row);
  });
  let version = 0;
  const source = {
    from: undefined,
    listen: () => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}`))),
    close: () => server.close(),
    change: (name) => rows.set(name, ++version),
    row: (name) => `ligne:${rows.get(name) ?? 0}.`,
    reads: (name) => reads.get(name) ?? 0,
    hold(name) {
      const { promise, open } = gate();
      held.set(name, { promise });
      return () => (held.delete(name), open());
    },
  };
  return source;
}

let dir, db, rows;
before(async () => {
  dir = project(fileURLToPath(new URL('pages', import.meta.url)));
  db = source();
  rows = await db.listen();
});
after(async () => {
  db.close();
  await endWorld();
});

/** Every instance answers this page without the database. */
async function isKept(apps, { path, name }) {
  for (const app of apps)
    await until(async () => {
      const before = db.reads(name);
      await app.page(path);
      return db.reads(name) === before;
    }, `${path} is kept`);
}

const shows = async (app, { path, name }) => assert.ok((await app.page(path)).includes(db.row(name)), `${path} shows ${db.row(name)}`);

describe('in Redis, two instances', () => {
  let server, apps;
  before(async () => {
    server = await startServer('valkey');
    const nobody = await counter();
    const env = { REDIS: 'true', DIST_DIR: '.next-redis', ROWS_URL: rows };
    await build(dir, true, { ...env, REDIS_URL: `redis://${nobody.address}` });
    assert.equal(nobody.count, 0, 'next build opened a connection to the cache');
    apps = [];
    for (let i = 0; i < 2; i++) apps.push(await start(dir, true, { ...env, REDIS_URL: `redis://127.0.0.1:${server.port}` }));
  });
  after(() => server?.stop());

  const expire = (tag) => server.admin.unlink(`next:tag:${tag}`);

  for (const page of PAGES) {
    test(`${page.kind}: both show the new row at the next request`, async () => {
      await isKept(apps, page);
      for (let i = 0; i < 3; i++) {
        db.change(page.name);
        assert.equal(await expire(page.tag), 1);
        const before = db.reads(page.name);
        for (const app of i % 2 ? apps : apps.toReversed()) await shows(app, page);
        await isKept(apps, page);
        for (const app of apps) await shows(app, page);
        assert.ok(db.reads(page.name) - before <= 2, 'what one instance rendered, the other serves');
      }
    });

    test(`${page.kind}: what began before the change and ended after it is not kept`, async () => {
      await isKept(apps, page);
      db.change(page.name);
      await expire(page.tag);
      const [release, before] = [db.hold(page.name), db.reads(page.name)];
      const slow = apps[0].page(page.path);
      await until(() => db.reads(page.name) > before, 'the render has read its row');
      const old = db.row(page.name);
      db.change(page.name);
      await expire(page.tag);
      release();
      assert.ok((await slow).includes(old), 'this visitor came before the change');
      for (const app of apps) await shows(app, page);
      await isKept(apps, page);
      for (const app of apps) await shows(app, page);
    });

    test(`${page.kind}: what the application expires itself at one instance, the other sees`, async () => {
      const ask = (body) => fetch(`${apps[0].url}/api/perime`, { method: 'POST', body: JSON.stringify(body) });
      for (const body of [{ tag: page.tag }, { path: page.path }]) {
        await isKept(apps, page);
        db.change(page.name);
        assert.equal((await ask(body)).status, 200);
        // Next answers, and expires behind its answer.
        await until(async () => (await apps[1].page(page.path)).includes(db.row(page.name)), `${JSON.stringify(body)} reaches the other`);
        await shows(apps[0], page);
      }
    });
  }

  test('with crieur behind a PostgreSQL: from the COMMIT to the pages of both, and across it', async () => {
    const { sql, url } = await database(dir);
    for (const { name, tag } of PAGES) await sql`INSERT INTO lignes VALUES (${name}, 1000, ${tag})`;
    db.from = async (name) => (await sql`SELECT version FROM lignes WHERE name = ${name}`)[0].version;
    const env = { DATABASE_URL: url, REDIS_URL: `redis://127.0.0.1:${server.port}` };
    await crieur('pages', env, fileURLToPath(new URL('pages', import.meta.url)));
    try {
      for (const page of PAGES) {
        const { path, name } = page;
        // What was kept before is of no row.
        for (const app of apps) await until(async () => (await app.page(path)).includes('ligne:1000.'), `${path} is made of the table`);
        const took = [];
        for (let version = 1001; version < 1006; version++) {
          await isKept(apps, page);
          const { ms } = await timed(async () => {
            await sql`UPDATE lignes SET version = ${version} WHERE name = ${name}`;
            for (const app of apps) await until(async () => (await app.page(path)).includes(`ligne:${version}.`), `${path} shows ${version}`);
          });
          took.push(Math.round(ms));
        }
        console.log(`COMMIT to page of two instances, by a generation key, ${page.kind}: ${took.join(', ')} ms`);

        await server.admin.unlink(`next:tag:${page.tag}`);
        const [release, before] = [db.hold(name), db.reads(name)];
        const slow = apps[0].page(path);
        await until(() => db.reads(name) > before, 'the render has read its row');
        assert.equal(await server.admin.exists(`next:tag:${page.tag}`), 1);
        await sql`UPDATE lignes SET version = 2000 WHERE name = ${name}`;
        await until(async () => (await server.admin.exists(`next:tag:${page.tag}`)) === 0, 'crieur has deleted the key');
        release();
        assert.ok((await slow).includes('ligne:1005.'), 'this visitor came before the COMMIT');
        for (const app of apps) assert.ok((await app.page(path)).includes('ligne:2000.'), `${path} shows the row`);
        await isKept(apps, page);
        for (const app of apps) assert.ok((await app.page(path)).includes('ligne:2000.'), `${path} keeps the row`);
      }
    } finally {
      db.from = undefined;
    }
  });

  test('without the server the pages come from the database, and afterwards from the cache again', async () => {
    for (const page of PAGES) await isKept(apps, page);
    const { port } = server;
    await server.stop();
    for (const page of PAGES) {
      db.change(page.name);
      for (const app of apps) await shows(app, page);
    }
    server = await startServer('valkey', { port });
    for (const page of PAGES) await isKept(apps, page);
    for (const app of apps) assert.doesNotMatch(app.said, /⨯|unhandled/i);
  });
});

describe("in Next's own cache, by the route", () => {
  let app;
  before(async () => {
    const env = { DIST_DIR: '.next-own', ROWS_URL: rows };
    await build(dir, true, env);
    app = await start(dir, true, { ...env, CRIEUR_WEBHOOK_SECRET: SECRET });
  });

  for (const page of PAGES) {
    test(`${page.kind}: the next request shows the new row`, async () => {
      const took = [];
      for (let i = 0; i < 5; i++) {
        await isKept([app], page);
        db.change(page.name);
        const { ms } = await timed(async () => {
          assert.equal(await post(app, [page.tag]), 200);
          await shows(app, page);
        });
        took.push(Math.round(ms));
      }
      console.log(`message to page, ${page.kind}: ${took.join(', ')} ms`);
    });

    test(`${page.kind}: the echo corrects what began before the change and ended after it`, async () => {
      await isKept([app], page);
      db.change(page.name);
      await post(app, [page.tag]);
      const [release, before] = [db.hold(page.name), db.reads(page.name)];
      const slow = app.page(page.path);
      await until(() => db.reads(page.name) > before, 'the render has read its row');
      db.change(page.name);
      assert.equal(await post(app, [page.tag]), 200);
      release();
      await slow;
      const isOld = !(await app.page(page.path)).includes(db.row(page.name));
      console.log(`${page.kind}: Next ${isOld ? 'kept the old row, the echo corrects it' : 'did not keep the old row'}`);
      assert.equal(await post(app, [page.tag]), 200);
      await shows(app, page);
      await isKept([app], page);
      await shows(app, page);
    });
  }

  test('a message that is not signed is 401, one without tags 400, and nothing is expired', async () => {
    const [page] = PAGES;
    await isKept([app], page);
    const before = db.reads(page.name);
    assert.equal((await fetch(`${app.url}/api/crieur`, { method: 'POST', body: '{}' })).status, 401);
    assert.equal(await post(app, [page.tag], { secret: `whsec_${Buffer.alloc(32).toString('base64')}` }), 401);
    assert.equal(await post(app, 'tags'), 400);
    assert.equal((await fetch(`${app.url}/api/crieur`)).status, 405);
    await app.page(page.path);
    assert.equal(db.reads(page.name), before);
  });
});
