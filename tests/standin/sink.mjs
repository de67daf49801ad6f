// Stand-ins of what takes tags, for tests: a site that takes webhooks, and the purge APIs of Vercel, Cloudflare and Fastly.
//
//   node tests/standin/sink.mjs --kind webhook --secret whsec_… --modules DIR     DIR holds node_modules with standardwebhooks
//   node tests/standin/sink.mjs --kind vercel|cloudflare|fastly --token T --owner ID [--bucket 25 --per-minute 5]
//        [--port 0] [--cert FILE --key FILE]
//
// One line of JSON on stdout when it listens: {"port":PORT,"control":PORT}. It ends with SIGTERM.
//
// The site is no stand-in of a judge: the package `standardwebhooks` itself verifies each request. A message whose id it has
// taken already is answered with 200 and is not done again.
//
// The services do as documented (docs of Vercel: rest-api/edge-cache; of Cloudflare: cache/how-to/purge-cache; of Fastly:
// api/purging). None of them was asked.
//   vercel      POST /v1/edge-cache/dangerously-delete-by-tags and invalidate-by-tags?projectIdOrName=ID, a bearer token,
//               {"tags": […]}: 1 to 16 of them, each of at most 256 characters and without a comma. 400, 401, 404.
//   cloudflare  POST /client/v4/zones/ID/purge_cache, a bearer token, {"tags": […]}: at most 100 of them, of ASCII that can be
//               printed, without space and comma, each of at most 1024. {"success": true}; 429 with Retry-After when the bucket is empty.
//   fastly      POST /service/ID/purge, the token in fastly-key, {"surrogate_keys": […]}: at most 256 of them, each of at
//               most 1024 characters without a space. 400, 401, 404.
//
// Control: plain HTTP on loopback, JSON in and out.
//   GET  /log      every request: [{path, at, id, tags, status, verified, soft}], in the order of their answers
//   POST /fault    one rule; the first that matches acts: {tag: "a tag that is among them", times: 1 (0: for ever), do: …}
//                    "status" {code, retry_after, location}   "cut" (no answer)   "late" (done, and no answer)   "hang" (until /unfault)
//   POST /unfault  forgets the rules and lets go what hangs
//   POST /forget   forgets the log

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import path from 'node:path';

const options = {};
for (let index = 2; index < process.argv.length; index += 2) options[process.argv[index].slice(2)] = process.argv[index + 1];
const { kind } = options;

const log = [];
let faults = [];
let hanging = [];
const taken = new Set();

const wanted = {
  vercel: { path: /^\/v1\/edge-cache\/(dangerously-delete|invalidate)-by-tags$/, list: 'tags', most: 16, length: 256, odd: /,/ },
  cloudflare: { path: /^\/client\/v4\/zones\/([^/]+)\/purge_cache$/, list: 'tags', most: 100, length: 1024, odd: /[^\x21-\x7e]|,/ },
  fastly: { path: /^\/service\/([^/]+)\/purge$/, list: 'surrogate_keys', most: 256, length: 1024, odd: /\s/ },
}[kind];

const bucket = { size: Number(options.bucket ?? Infinity), perMinute: Number(options['per-minute'] ?? Infinity), level: Number(options.bucket ?? Infinity), at: Date.now() };
function pays() {
  const now = Date.now();
  bucket.level = Math.min(bucket.size, bucket.level + ((now - bucket.at) / 60_000) * bucket.perMinute);
  bucket.at = now;
  if (bucket.level < 1) return false;
  bucket.level -= 1;
  return true;
}

const verify = (() => {
  if (kind !== 'webhook') return null;
  const { Webhook } = createRequire(path.resolve(options.modules, 'from.js'))('standardwebhooks');
  const webhook = new Webhook(options.secret);
  return (body, headers) => webhook.verify(body, headers);
})();

/** What the contract says of a request: its status, its answer, its tags. */
function judge(request, url, body) {
  if (kind === 'webhook') {
    const id = request.headers['webhook-id'];
    try {
      const message = verify(body, request.headers);
      const again = taken.has(id);
      taken.add(id);
      return { status: 200, answer: {}, tags: message.data.tags, id, type: message.type, verified: true, again };
    } catch (error) {
      return { status: 401, answer: { error: error.message }, tags: [], id, verified: false };
    }
  }
  const token = kind === 'fastly' ? request.headers['fastly-key'] : request.headers.authorization?.replace(/^Bearer /, '');
  const verified = token === options.token;
  let tags = [];
  try {
    tags = JSON.parse(body)[wanted.list];
  } catch {
    return { status: 400, answer: { error: 'no JSON' }, tags, verified };
  }
  const soft = kind === 'fastly' ? request.headers['fastly-soft-purge'] === '1' : url.pathname.includes('/invalidate-');
  const seen = { tags, verified, soft };
  const found = wanted.path.exec(url.pathname);
  const owner = kind === 'vercel' ? url.searchParams.get('projectIdOrName') : found?.[1];
  if (!verified) return { ...seen, status: 401, answer: { error: 'token' } };
  if (request.method !== 'POST' || !found || owner !== options.owner) return { ...seen, status: 404, answer: { error: 'no such thing' } };
  const wrong = !Array.isArray(tags) || tags.length < 1 || tags.length > wanted.most || tags.some((tag) => tag.length < 1 || tag.length > wanted.length || wanted.odd.test(tag));
  if (wrong) return { ...seen, status: 400, answer: { error: 'tags' } };
  if (!pays()) return { ...seen, status: 429, answer: { success: false }, retry: Math.ceil(60 / bucket.perMinute) };
  const answers = {
    vercel: {},
    cloudflare: { success: true, errors: [], messages: [], result: { id: options.owner } },
    fastly: Object.fromEntries(tags.map((tag) => [tag, createHash('sha1').update(tag).digest('hex')])),
  };
  return { ...seen, status: 200, answer: answers[kind] };
}

function fault(tags) {
  const index = faults.findIndex((rule) => (rule.tag ?? null) === null || tags.includes(rule.tag));
  if (index < 0) return null;
  const rule = faults[index];
  if (rule.times > 0 && --rule.times === 0) faults.splice(index, 1);
  return rule;
}

/** The tags that a body names, whatever the rest of it is. */
function named(body) {
  try {
    const value = JSON.parse(body);
    return value.data?.tags ?? value.tags ?? value.surrogate_keys ?? [];
  } catch {
    return [];
  }
}

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

async function take(request, response) {
  const url = new URL(request.url, 'http://sink');
  const body = await bodyOf(request);
  const rule = fault(named(body));
  const note = (seen) => log.push({ path: url.pathname + url.search, at: Date.now(), ...seen, answer: undefined });
  if (rule?.do === 'hang') {
    hanging.push(() => request.socket.destroy());
    return note({ id: request.headers['webhook-id'], tags: named(body), status: 0, verified: null });
  }
  if (rule?.do === 'cut') {
    note({ id: request.headers['webhook-id'], tags: named(body), status: 0, verified: null });
    return request.socket.destroy();
  }
  if (rule?.do === 'status') {
    note({ id: request.headers['webhook-id'], tags: named(body), status: rule.code, verified: null });
    const headers = {};
    if (rule.retry_after !== undefined) headers['retry-after'] = String(rule.retry_after);
    if (rule.location !== undefined) headers.location = rule.location;
    response.writeHead(rule.code, headers);
    return response.end('what a stand-in says, with tags: ' + named(body).join(' '));
  }
  const seen = judge(request, url, body);
  note(seen);
  if (rule?.do === 'late') return request.socket.destroy();
  response.writeHead(seen.status, { 'content-type': 'application/json', ...(seen.retry ? { 'retry-after': String(seen.retry) } : {}) });
  response.end(JSON.stringify(seen.answer));
}

const secure = options.cert !== undefined;
const server = secure
  ? https.createServer({ cert: readFileSync(options.cert), key: readFileSync(options.key) }, take)
  : http.createServer(take);
const control = http.createServer(async (request, response) => {
  const body = await bodyOf(request);
  let answer = {};
  if (request.url === '/log') answer = log;
  else if (request.url === '/forget') log.length = 0;
  else if (request.url === '/fault') faults.push({ times: 1, ...JSON.parse(body) });
  else if (request.url === '/unfault') {
    faults = [];
    hanging.splice(0).forEach((end) => end());
  }
  response.end(JSON.stringify(answer));
});
server.listen(Number(options.port ?? 0), '127.0.0.1', () => {
  control.listen(0, '127.0.0.1', () => {
    process.stdout.write(JSON.stringify({ port: server.address().port, control: control.address().port }) + '\n');
  });
});
