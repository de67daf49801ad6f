// The route for crieur's webhook. Messages are signed by npm `standardwebhooks`, which is the judge of what is signed.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { beforeEach, mock, test } from 'node:test';
import { Webhook } from 'standardwebhooks';
import { tagsRoute } from '../dist/next.js';
import { nothingIsUnhandled } from './parts/waiting.mjs';

nothingIsUnhandled();

const secretOf = (text) => `whsec_${Buffer.from(text.padEnd(32, '.')).toString('base64')}`;
const SECRET = secretOf('first');
const OTHER = secretOf('second');
const LATE = 6 * 60_000;

let expired, calls;
beforeEach(() => {
  expired = [];
  calls = [];
});
const revalidateTag = (tag, profile) => {
  calls.push([tag, profile]);
  expired.push(tag);
};
const route = (options = {}) => tagsRoute({ secret: SECRET, revalidateTag, ...options });

const textOf = (tags) => JSON.stringify({ type: 'crieur.tags', timestamp: new Date().toISOString(), data: { tags } });

/** A message as the judge signs it; `change` alters what was signed. */
function message(tags, { id = 'msg_1', at = new Date(), secrets = [SECRET], body = textOf(tags), change = (headers) => headers } = {}) {
  const signature = secrets.map((secret) => new Webhook(secret).sign(id, at, body)).join(' ');
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': `${Math.floor(at / 1000)}`,
    'webhook-signature': signature,
  };
  return { headers: change(headers), body };
}
const request = ({ headers, body }) => new Request('http://app/api/crieur', { method: 'POST', headers, body, duplex: 'half' });
const post = (handler, sent) => handler(request(sent));

/** The judge's word on the same message. */
function isGood({ headers, body }, secret = SECRET) {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}

/** Refused by the route and by the judge alike. */
async function refused(sent, status, word, handler = route()) {
  assert.equal(isGood(sent), false, 'the judge takes it');
  const answer = await post(handler, sent);
  const text = await answer.text();
  assert.equal(answer.status, status, text);
  assert.match(text, word);
  assert.deepEqual(expired, []);
}

test('a message that the judge signed expires its tags, each with expire: 0', async () => {
  const sent = message(['property-1', 'city-Thiès']);
  assert.ok(isGood(sent));
  const answer = await post(route(), sent);
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), { tags: 2 });
  assert.deepEqual(calls, [['property-1', { expire: 0 }], ['city-Thiès', { expire: 0 }]]);
});

test('no tags are no error', async () => {
  assert.equal((await post(route(), message([]))).status, 200);
});

test('each byte of the body, the id and the timestamp is signed', async () => {
  const sent = message(['property-1']);
  for (let at = 0; at < sent.body.length; at++) {
    const letter = String.fromCharCode(sent.body.charCodeAt(at) ^ 1);
    await refused({ ...sent, body: sent.body.slice(0, at) + letter + sent.body.slice(at + 1) }, 401, /does not fit/);
  }
  await refused({ ...sent, body: `${sent.body} ` }, 401, /does not fit/);
  await refused(message(['a'], { change: (headers) => ({ ...headers, 'webhook-id': 'msg_2' }) }), 401, /does not fit/);
  const later = (headers) => ({ ...headers, 'webhook-timestamp': `${Number(headers['webhook-timestamp']) + 1}` });
  await refused(message(['a'], { change: later }), 401, /does not fit/);
});

test('a missing header, another secret and another version are refused', async () => {
  for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature'])
    await refused(message(['a'], { change: ({ [name]: _, ...headers }) => headers }), 401, /missing/);
  await refused(message(['a'], { secrets: [OTHER] }), 401, /does not fit/);
  for (const signature of ['v2', 'v1a', 'v1,', 'v1', ',', 'v1,%%%', ''])
    await refused(message(['a'], { change: (headers) => ({ ...headers, 'webhook-signature': signature }) }), 401, /does not fit|missing/);
  await refused(message(['a'], { change: (headers) => ({ ...headers, 'webhook-signature': headers['webhook-signature'].replace('v1,', 'v2,') }) }), 401, /does not fit/);
});

test('a timestamp of six minutes ago, or ahead, is refused; one of four minutes is not', async () => {
  for (const off of [-LATE, LATE]) await refused(message(['a'], { at: new Date(Date.now() + off) }), 401, /more than 300 s/);
  await refused(message(['a'], { change: (headers) => ({ ...headers, 'webhook-timestamp': 'soon' }) }), 401, /./);
  for (const off of [-240_000, 240_000]) {
    const sent = message(['a'], { id: `msg_${off}`, at: new Date(Date.now() + off) });
    assert.ok(isGood(sent));
    assert.equal((await post(route(), sent)).status, 200);
  }
});

test('while one secret replaces another, both are taken, and a message may have two signatures', async () => {
  for (const secret of [`${OTHER} ${SECRET}`, `${OTHER},${SECRET}`, [OTHER, SECRET]])
    assert.equal((await post(route({ secret }), message(['a']))).status, 200);
  for (const secrets of [[OTHER, SECRET], [SECRET, OTHER]]) {
    const sent = message(['a'], { secrets });
    assert.ok(isGood(sent));
    assert.equal((await post(route(), sent)).status, 200);
  }
  assert.equal((await post(route({ secret: [OTHER] }), message(['a']))).status, 401);
});

test('a secret without whsec_ is the same secret', async () => {
  assert.equal((await post(route({ secret: SECRET.replace('whsec_', '') }), message(['a']))).status, 200);
});

test('a message that comes again is answered 200 and expires nothing; one with another id or body does', async () => {
  const handler = route();
  const sent = message(['a']);
  const answers = await Promise.all([post(handler, sent), post(handler, sent)]);
  assert.deepEqual(answers.map((answer) => answer.status), [200, 200]);
  // Of two at the same moment, both may; afterwards none.
  const before = expired.length;
  const again = await post(handler, sent);
  assert.deepEqual([again.status, await again.json()], [200, { tags: 1, again: true }]);
  // crieur may sign a repeat at its own time.
  const resigned = message(['a'], { body: sent.body, at: new Date(Date.now() + 5_000) });
  assert.equal((await post(handler, resigned)).status, 200);
  assert.equal(expired.length, before);
  await post(handler, message(['a'], { id: 'msg_2' }));
  await post(handler, message(['b'], { id: 'msg_1' }));
  assert.deepEqual(expired.slice(before), ['a', 'b']);
});

test('what is remembered is forgotten when it is too old to come again, and never more than 10,000', async () => {
  const handler = route();
  mock.timers.enable({ apis: ['Date'], now: Date.now() });
  try {
    const sent = message(['a']);
    assert.equal((await post(handler, sent)).status, 200);
    mock.timers.tick(LATE);
    assert.equal((await post(handler, sent)).status, 401);
    // The same id for a new message, long after.
    assert.deepEqual(await (await post(handler, message(['a'], { body: sent.body }))).json(), { tags: 1 });
  } finally {
    mock.timers.reset();
  }
  const first = message(['x'], { id: 'msg_first' });
  await post(handler, first);
  for (let i = 0; i < 10_000; i++) await post(handler, message([], { id: `msg_${i}`, body: first.body }));
  assert.deepEqual(await (await post(handler, first)).json(), { tags: 1 });
});

test('a signed message that is malformed is 400, and says what without a tag', async () => {
  const long = 'secret'.repeat(50);
  const wrong = [
    ['{', /not JSON/], [Buffer.from([0x22, 0xff, 0x22]).toString('latin1'), /type/], ['null', /type/], ['[]', /type/],
    ['{"type":"other","data":{"tags":["a"]}}', /type/], ['{"type":"crieur.tags"}', /data.tags/],
    ['{"type":"crieur.tags","data":{"tags":"a"}}', /data.tags/], ['{"type":"crieur.tags","data":{"tags":["a",1]}}', /data.tags\[1\]/],
    ['{"type":"crieur.tags","data":{"tags":[""]}}', /data.tags\[0\]/], [textOf(['a', long]), /data.tags\[1\]/],
  ];
  for (const [body, word] of wrong) {
    const answer = await post(route(), message([], { body }));
    const text = await answer.text();
    assert.equal(answer.status, 400, body);
    assert.match(text, word);
    assert.doesNotMatch(text, /secretsecret/);
  }
  assert.deepEqual(expired, []);
});

test('a body without end is given up on before its signature is looked at', async () => {
  let sent = 0;
  const body = new ReadableStream({
    pull(controller) {
      sent += 65_536;
      controller.enqueue(new Uint8Array(65_536));
    },
  });
  const answer = await post(route(), { ...message(['a']), body });
  assert.equal(answer.status, 413);
  assert.ok(sent < 2 * 1024 * 1024, `${sent}`);
});

test('without a secret, or with one that is none, all is refused, and the secret is not said', async () => {
  const said = mock.method(console, 'error', () => {});
  try {
    for (const secret of [undefined, '', ' ', [], 'whsec_', 'whsec_not base64!', 'whsec_%%%%']) {
      const answer = await post(route({ secret }), message(['a']));
      assert.equal(answer.status, 500, `${secret}`);
    }
    const lines = said.mock.calls.map(({ arguments: [line] }) => line);
    assert.equal(lines.length, 7);
    for (const line of lines) {
      assert.match(line, /^crieur-cache\/next: secret: /);
      assert.doesNotMatch(line, /%%|not base64!/);
    }
  } finally {
    said.mock.restore();
  }
  assert.deepEqual(expired, []);
});

test('what revalidateTag throws is 500, and the message is done when it comes again', async () => {
  const said = mock.method(console, 'error', () => {});
  try {
    let isBroken = true;
    const handler = route({
      revalidateTag: async (tag) => {
        if (isBroken) throw new Error('wanted');
        expired.push(tag);
      },
    });
    const sent = message(['a']);
    assert.equal((await post(handler, sent)).status, 500);
    isBroken = false;
    assert.deepEqual(await (await post(handler, sent)).json(), { tags: 1 });
    assert.deepEqual(expired, ['a']);
  } finally {
    said.mock.restore();
  }
});

test('the pages show the route as the tests of Next build it', () => {
  const route = readFileSync(new URL('next/pages/app/api/crieur/route.ts', import.meta.url), 'utf8');
  for (const page of ['next.md', 'next.fr.md']) {
    const text = readFileSync(new URL(`../docs/${page}`, import.meta.url), 'utf8');
    assert.ok(text.includes(`// app/api/crieur/route.ts\n${route}`), page);
  }
});
