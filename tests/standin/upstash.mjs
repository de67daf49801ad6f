// A stand-in of Upstash for tests: REST and TCP on one token, in front of a real Valkey 9, with a bill and with faults.
//
//   node tests/standin/upstash.mjs --backend 127.0.0.1:6400 --token T
//        [--readonly-token R] [--host 127.0.0.1] [--rest-port 0] [--tcp-port 0] [--control-port 0]
//        [--cert FILE --key FILE]     TLS on both ports; without: plain HTTP and plain RESP
//        [--remember 64]              write transactions that can be lost (/lose); 0 keeps none
//        [--limit 500000]             commands after which the plan is used up; default none
//
// One line of JSON on stdout when it listens: {"rest":PORT,"tcp":PORT,"control":PORT}. It ends with SIGTERM, or with the
// server behind it. Databases 0 (the leader) and 1 (a read replica) of the backend are its own. Seed keys through the stand-in, or
// straight into database 0: what goes there directly is neither billed, nor replicated to the replica, nor lost.
//
// What it does as documented (docs of Upstash: redis/features/restapi, readyourwrites, overall/pricing):
//   REST   POST / with one command as a JSON array; /set/k/v, with a POST or PUT body as the last argument and the query
//          behind it; /pipeline; /multi-exec. `Authorization: Bearer` or `?_token=`. 400, 401, 405; HTTP 200 with an
//          error in each item. Upstash-Encoding: base64, Upstash-Response-Format: resp2, upstash-sync-token.
//   TCP    AUTH TOKEN or AUTH default TOKEN, HELLO with RESP2 and RESP3, MULTI/EXEC/DISCARD. INFO without run_id and
//          without replication.
//   Bill   each command, each of a pipeline or transaction, EVAL and each command inside of it; not AUTH, INFO, PING,
//          QUIT, COMMAND, ECHO, SELECT, CLIENT, HELLO. MULTI and EXEC over TCP are billed (assumed: the documents do not say).
//   Reads  GET, MGET, SCAN and other reads are answered by the replica when /lag is not 0: so many milliseconds behind,
//          unless the sync token (REST) or the session's own writes (TCP) demand more; then it catches up to exactly those.
// Not modelled: WATCH, SUBSCRIBE, MONITOR, blocking commands, several databases, 10,000 commands a second, the maps and sets
//          of RESP3 but that of HELLO.
//
// Control: plain HTTP on loopback, JSON in and out.
//   GET  /stats     {billed, commands: {GET: n, …}, requests: {rest, tcp}, connections: {rest, tcp}, writes, lost, fired, held}
//   GET  /log       the last 1,000 requests: [{over, path, commands: [["UNLINK", "first argument", …up to 8]], fault}]
//   POST /reset     forgets bill, log, faults; releases what is held; the lag ends
//   POST /fault     one rule, answered with {id}; the first that matches acts:
//                     match: {over: "rest"|"tcp", command: "UNLINK", key: "prefix of the first key", path: "/pipeline"}, all optional
//                     skip: how many matches go by first (0);  times: how many it acts on (1; 0: for ever)
//                     do: "delay"     {ms, when: "before"|"after"}
//                         "hold"      {when}; until POST /release {id}, or {} for all
//                         "cut"       {when}; the connection ends without an answer, before or after the execution
//                         "status"    {code, error, retry_after}; not executed (over TCP: an error reply)
//                         "html"      {code, body}; not executed: a captive portal
//                         "redirect"  {location}; 302, not executed
//                         "truncate"  executed, then half of the JSON (over TCP: half of the reply and the end)
//                         "error"     {error, index}; the item that matched, or that index, is not executed; the others are
//   POST /unfault   {id}, or {} for all
//   POST /quota     {limit, error}: commands past `limit` are refused as a used-up plan (null: no limit)
//   POST /lag       {ms}: how far reads are behind; 0 ends it
//   POST /lose      {transactions}: a new leader without the last n; answers {lost}. What the replica has of them it loses too.
//   POST /token     {token}: another token from now on; sessions that are logged in stay
//   POST /drop      ends every TCP session and every idle HTTP connection

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import tls from 'node:tls';
import { parseArgs } from 'node:util';

import { Backend, Reader, reply } from './resp.mjs';

const REQUEST_BYTES_MAX = 10 * 1024 * 1024;
const KEY_BYTES_MAX = 32 * 1024;
const LOG_MAX = 1000;

const FREE = new Set(['AUTH', 'INFO', 'PING', 'QUIT', 'COMMAND', 'ECHO', 'SELECT', 'CLIENT', 'HELLO']);
// Those of a connection, which REST has not.
const OF_CONNECTION = ['AUTH', 'SELECT', 'CLIENT', 'QUIT', 'MULTI', 'EXEC', 'DISCARD'];
const READS = new Set(
  ('GET MGET SCAN EXISTS TTL PTTL STRLEN TYPE DBSIZE KEYS HGET HGETALL HMGET HLEN HKEYS HVALS LRANGE LLEN SMEMBERS ' +
    'SISMEMBER SCARD ZRANGE ZSCORE ZCARD GETRANGE RANDOMKEY DUMP EVAL_RO EVALSHA_RO').split(' '),
);
// Nothing that a transaction executed, and nothing that could be undone.
const NEUTRAL = new Set(['SCRIPT', 'TIME', 'WAIT', 'WAITAOF', 'PUBLISH']);
const REFUSED = new Set(
  ('WATCH UNWATCH SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE MONITOR BLPOP BRPOP BLMOVE BLMPOP BRPOPLPUSH ' +
    'BZPOPMIN BZPOPMAX BZMPOP XREAD CLUSTER CONFIG DEBUG SHUTDOWN REPLICAOF SLAVEOF ROLE SYNC PSYNC MIGRATE MOVE SWAPDB ' +
    'SAVE BGSAVE BGREWRITEAOF LATENCY SLOWLOG MODULE HELLO READONLY READWRITE ASKING FAILOVER RESET').split(' '),
);

const { values: flags } = parseArgs({
  options: Object.fromEntries(
    ['backend', 'token', 'readonly-token', 'host', 'rest-port', 'tcp-port', 'control-port', 'cert', 'key', 'remember', 'limit'].map(
      (name) => [name, { type: 'string' }],
    ),
  ),
});
if (!flags.backend || !flags.token) {
  console.error('usage: node upstash.mjs --backend HOST:PORT --token TOKEN (the head of the file says the rest)');
  process.exit(64);
}
const host = flags.host ?? '127.0.0.1';
const [backendHost, backendPort] = flags.backend.split(':');
let token = flags.token;
const readonlyToken = flags['readonly-token'];
const remember = Number(flags.remember ?? 64);

const leader = new Backend(backendHost, Number(backendPort), 0);
const replica = new Backend(backendHost, Number(backendPort), 1);

// --- What happened so far ------------------------------------------------------------------------------------------

let limit = flags.limit === undefined ? Infinity : Number(flags.limit);
let quotaText;
let billed = 0;
let commandsBilled = {};
let requests = { rest: 0, tcp: 0 };
let connections = { rest: 0, tcp: 0 };
let log = [];
let fired = 0;
let lost = 0;

function bill(name, times = 1) {
  billed += times;
  commandsBilled[name] = (commandsBilled[name] ?? 0) + times;
}

const nameOf = (args) => args[0].toString('latin1').toUpperCase();
const isFree = (args) => FREE.has(nameOf(args));
const isWrite = (args) => !READS.has(nameOf(args)) && !FREE.has(nameOf(args)) && !NEUTRAL.has(nameOf(args));

/** The keys that a command may change or read. */
function keysOf(args) {
  switch (nameOf(args)) {
    case 'DEL': case 'UNLINK': case 'MGET': case 'EXISTS': case 'TOUCH':
      return args.slice(1);
    case 'MSET': case 'MSETNX':
      return args.slice(1).filter((_, index) => index % 2 === 0);
    case 'EVAL': case 'EVALSHA': case 'EVAL_RO': case 'EVALSHA_RO': case 'FCALL': case 'FCALL_RO':
      return args.slice(3, 3 + Number(args[2]));
    case 'RENAME': case 'RENAMENX': case 'COPY':
      return args.slice(1, 3);
    case 'SCAN': case 'KEYS': case 'DBSIZE': case 'FLUSHALL': case 'FLUSHDB': case 'SCRIPT': case 'PING': case 'INFO':
      return [];
    default:
      return args.slice(1, 2);
  }
}

// --- Faults --------------------------------------------------------------------------------------------------------

let rules = [];
let ruleId = 0;
let held = [];

function matches(rule, over, path, commands) {
  const { match = {} } = rule;
  if (match.over !== undefined && match.over !== over) return -1;
  if (match.path !== undefined && match.path !== path) return -1;
  return commands.findIndex((args) => {
    if (match.command !== undefined && nameOf(args) !== match.command.toUpperCase()) return false;
    return match.key === undefined || (keysOf(args)[0] ?? '').toString().startsWith(match.key);
  });
}

/** The rule that acts on this request, and the index of the command that it is about. */
function faultOf(over, path, commands) {
  for (const rule of rules) {
    const index = matches(rule, over, path, commands);
    if (index < 0) continue;
    rule.seen = (rule.seen ?? 0) + 1;
    if (rule.seen <= (rule.skip ?? 0)) continue;
    const times = rule.times ?? 1;
    if (times !== 0 && (rule.acted ?? 0) >= times) continue;
    rule.acted = (rule.acted ?? 0) + 1;
    fired += 1;
    return { ...rule, index: rule.index ?? index };
  }
  return undefined;
}

async function pause(fault, when) {
  if (fault === undefined || (fault.when ?? 'before') !== when) return;
  if (fault.do === 'delay') await new Promise((done) => setTimeout(done, fault.ms));
  if (fault.do === 'hold') await new Promise((done) => held.push({ id: fault.id, done }));
}

function release(id) {
  const freed = held.filter((waiting) => id === undefined || waiting.id === id);
  held = held.filter((waiting) => !freed.includes(waiting));
  for (const waiting of freed) waiting.done();
  return freed.length;
}

function note(over, path, commands, fault) {
  requests[over] += 1;
  const shown = commands.map((args) => args.slice(0, 8).map((arg) => arg.subarray(0, 200).toString()));
  log.push({ over, path, commands: shown, fault: fault?.do });
  if (log.length > LOG_MAX) log.shift();
}

// --- Execution -----------------------------------------------------------------------------------------------------

const scripts = new Map();

/** Counts what a script calls: it runs inside of a function whose `redis` is another. */
function counted(script) {
  const body = script.replace(/^#![^\n]*\n/, '\n');
  return `local standin_redis, standin_calls = redis, 0
local function standin_run(redis, KEYS, ARGV)
${body}
end
local function standin_count(call) return function(...) standin_calls = standin_calls + 1; return call(...) end end
local standin_own = setmetatable({call = standin_count(standin_redis.call), pcall = standin_count(standin_redis.pcall)}, {__index = standin_redis})
local standin_ok, standin_value = pcall(standin_run, standin_own, KEYS, ARGV)
if not standin_ok and type(standin_value) ~= 'table' then standin_value = {err = 'ERR ' .. tostring(standin_value)} end
return {standin_calls, standin_value}`;
}

/** The same command as the server runs it, and what its reply becomes. */
function translated(args) {
  const name = nameOf(args);
  if (!['EVAL', 'EVAL_RO', 'EVALSHA', 'EVALSHA_RO'].includes(name)) return { args };
  let script = args[1].toString('latin1');
  if (name.startsWith('EVALSHA')) {
    script = scripts.get(script.toLowerCase());
    if (script === undefined) return { refused: { error: 'NOSCRIPT No matching script. Please use EVAL.' } };
  } else {
    scripts.set(createHash('sha1').update(args[1]).digest('hex'), script);
  }
  const isRead = name.endsWith('_RO');
  const read = (value) => {
    if (!Array.isArray(value)) return value;
    bill('inside of EVAL', value[0]);
    return value[1] ?? null;
  };
  return { args: [isRead ? 'EVAL_RO' : 'EVAL', Buffer.from(counted(script), 'latin1'), ...args.slice(2)], read };
}

const INFO = {
  server: () => 'upstash_version:1.17.0\r\nredis_version:8.2.0\r\nredis_mode:standalone\r\nos:linux',
  clients: () => 'connected_clients:1',
  memory: () => 'used_memory:1024\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction',
  stats: () => `total_commands_processed:${billed}`,
  cluster: () => 'cluster_enabled:0',
  keyspace: () => '',
};

function info(sections) {
  const wanted = sections.map((section) => section.toString().toLowerCase());
  const all = wanted.length === 0 || wanted.some((section) => ['all', 'default', 'everything'].includes(section));
  const parts = Object.entries(INFO).filter(([name]) => all || wanted.includes(name));
  return Buffer.from(parts.map(([name, text]) => `# ${name[0].toUpperCase()}${name.slice(1)}\r\n${text()}\r\n`).join('\r\n'));
}

/** Commands that never reach the server, or that are refused; undefined for all others. */
function answered(args, isReadonly) {
  const name = nameOf(args);
  if (REFUSED.has(name)) return { error: `ERR Command is not available: '${name}'` };
  if (isReadonly && (isWrite(args) || ['SCAN', 'KEYS'].includes(name))) {
    return { error: `NOPERM this user has no permissions to run the '${name.toLowerCase()}' command` };
  }
  const long = keysOf(args).find((key) => key.length > KEY_BYTES_MAX);
  if (long) return { error: `ERR max key size exceeded. Limit: ${KEY_BYTES_MAX} bytes, Actual: ${long.length} bytes` };
  switch (name) {
    case 'INFO':
      return info(args.slice(1));
    case 'PING':
      return args.length > 1 ? args[1] : { status: 'PONG' };
    case 'ECHO':
      return args.length === 2 ? args[1] : { error: "ERR wrong number of arguments for 'echo' command" };
    case 'COMMAND':
      return [];
    case 'CLIENT':
      return ['SETNAME', 'SETINFO'].includes(args[1]?.toString().toUpperCase()) ? { status: 'OK' } : { error: "ERR unknown subcommand" };
    case 'SELECT':
      return args[1]?.toString() === '0' ? { status: 'OK' } : { error: 'ERR Only 0th database is supported' };
    default:
      break;
  }
  if (!isFree(args) && billed >= limit) return usedUp();
  return undefined;
}

function usedUp() {
  const text = quotaText ?? 'ERR max requests limit exceeded. Limit: {limit}, Usage: {usage}. See https://upstash.com/docs/redis/troubleshooting/max_requests_limit for details';
  return { error: text.replace('{limit}', limit).replace('{usage}', billed) };
}

// Write transactions in their order: what the replica lacks, and what can be lost.
let sequence = 0;
let applied = 0;
let pending = [];
let undo = [];
let lag = 0;

/** Runs commands as one step on the leader. */
async function onLeader(commands, isAtomic) {
  const writes = commands.filter((args) => isWrite(args));
  let entry;
  if (writes.length > 0) {
    sequence += 1;
    entry = { sequence, at: Date.now(), writes, before: [] };
    if (remember > 0) {
      const keys = new Map(writes.flatMap((args) => keysOf(args)).map((key) => [key.toString('latin1'), key]));
      // On the same connection, in front of what changes them.
      entry.before = [...keys.values()].map((key) => [key, leader.send(['DUMP', key]), leader.send(['PTTL', key])]);
      undo.push(entry);
      if (undo.length > remember) undo.shift();
    }
    if (lag > 0) pending.push(entry);
    else applied = sequence;
  }
  const sent = commands.map((args) => ({ ...translated(args), name: nameOf(args) }));
  for (const { name, refused } of sent) if (refused === undefined && !FREE.has(name)) bill(name);
  const run = isAtomic && sent.length > 1;
  if (run) void leader.send(['MULTI']);
  const replies = sent.map(({ args, refused }) => refused ?? leader.send(args));
  const executed = run ? await leader.send(['EXEC']) : undefined;
  const out = [];
  let next = 0;
  for (const [index, { args, read }] of sent.entries()) {
    let value = await replies[index];
    if (run && args !== undefined && value?.status === 'QUEUED') {
      value = Array.isArray(executed) ? executed[next] : (executed ?? { error: 'ERR EXEC without a reply' });
      next += 1;
    }
    out.push(read === undefined ? value : read(value));
  }
  return { replies: out, seen: sequence };
}

/** Reads, by the replica as far as it is, or as far as `wanted` asks. */
async function onReplica(commands, wanted) {
  await catchUp(wanted);
  await unchanging();
  const seen = applied;
  const sent = commands.map((args) => ({ ...translated(args), name: nameOf(args) }));
  for (const { name, refused } of sent) if (refused === undefined && !FREE.has(name)) bill(name);
  const replies = sent.map(({ args, read, refused }) => (refused !== undefined ? refused : replica.send(args).then(read ?? ((value) => value))));
  return { replies: await Promise.all(replies), seen };
}

/** Applies what is due, and everything up to `wanted`. */
async function catchUp(wanted) {
  const now = Date.now();
  const sent = [];
  while (pending.length > 0 && (pending[0].sequence <= wanted || pending[0].at + lag <= now)) {
    const entry = pending.shift();
    applied = entry.sequence;
    for (const args of entry.writes) {
      const { args: translatedArgs } = translatedQuietly(args);
      if (translatedArgs !== undefined) sent.push(replica.send(translatedArgs));
    }
  }
  await Promise.all(sent);
}

function translatedQuietly(args) {
  const { args: run, refused } = translated(args);
  return refused === undefined ? { args: run } : {};
}

setInterval(() => void catchUp(0), 5).unref();

// A change of the leader or of the lag is one step: whatever is to be executed waits for its end.
let changing;

const unchanging = async () => {
  while (changing !== undefined) await changing.catch(() => {});
};

async function inOneStep(change) {
  await unchanging();
  changing = change();
  try {
    return await changing;
  } finally {
    changing = undefined;
  }
}

async function lagBy(ms) {
  lag = 0;
  await catchUp(Infinity);
  if (ms > 0) {
    await replica.send(['FLUSHDB', 'SYNC']);
    let cursor = '0';
    do {
      const page = await leader.send(['SCAN', cursor, 'COUNT', '1000']);
      cursor = page[0].toString();
      await Promise.all(page[1].map((key) => leader.send(['COPY', key, key, 'DB', '1', 'REPLACE'])));
    } while (cursor !== '0');
    applied = sequence;
  }
  lag = ms;
}

/** The leader changes, and the new one never had the last write transactions. */
async function lose(transactions) {
  const gone = undo.splice(Math.max(0, undo.length - transactions)).reverse();
  const sequences = new Set(gone.map((entry) => entry.sequence));
  pending = pending.filter((entry) => !sequences.has(entry.sequence));
  for (const { before } of gone) {
    for (const [key, dump, ttl] of before) {
      const [image, left] = [await dump, await ttl];
      for (const server of lag > 0 ? [leader, replica] : [leader]) {
        const restored = Buffer.isBuffer(image) ? ['RESTORE', key, String(Math.max(0, left)), image, 'REPLACE'] : ['DEL', key];
        await server.send(restored);
      }
    }
  }
  lost += gone.length;
  return gone.length;
}

/**
 * Executes the commands of one request: what is refused is refused alone, the others are executed, in order.
 * `wanted`: how much of the writes reads must see.
 */
async function execute(commands, { isAtomic, isReadonly, wanted, fault }) {
  await unchanging();
  const out = new Array(commands.length);
  const left = [];
  for (const [index, args] of commands.entries()) {
    const own = fault?.do === 'error' && fault.index === index ? { error: fault.error } : answered(args, isReadonly);
    if (own !== undefined) out[index] = own;
    else left.push(index);
  }
  const isRead = lag > 0 && left.every((index) => READS.has(nameOf(commands[index])));
  let seen = lag > 0 ? applied : sequence;
  if (isAtomic || isRead) {
    const run = left.map((index) => commands[index]);
    const done = run.length === 0 ? { replies: [], seen } : isRead ? await onReplica(run, wanted) : await onLeader(run, isAtomic);
    left.forEach((index, at) => (out[index] = done.replies[at]));
    seen = done.seen;
  } else {
    // Each command of a pipeline is a step of its own.
    let own = wanted;
    const steps = left.map((index) => {
      const read = lag > 0 && READS.has(nameOf(commands[index]));
      const step = read ? onReplica([commands[index]], own) : onLeader([commands[index]], false);
      if (!read) own = Math.max(own, sequence);
      return step.then((done) => {
        [out[index]] = done.replies;
        seen = Math.max(seen, done.seen);
      });
    });
    await Promise.all(steps);
  }
  return { replies: out, seen };
}

// --- REST ----------------------------------------------------------------------------------------------------------

/** A value as JSON has it; `encoded` is Upstash-Encoding: base64. */
function json(value, encoded) {
  if (value === null || typeof value === 'number') return value;
  if (Array.isArray(value)) return value.map((item) => (item?.error !== undefined ? item.error : json(item, encoded)));
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(value.status);
  if (!Buffer.isBuffer(value) && value.status === 'OK') return 'OK';
  return encoded ? bytes.toString('base64') : bytes.toString();
}

const item = (value, encoded) => (value?.error !== undefined ? { error: value.error } : { result: json(value, encoded) });

class Refusal extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

function argument(value) {
  if (typeof value === 'string') return Buffer.from(value);
  if (typeof value === 'number' || typeof value === 'boolean') return Buffer.from(String(value));
  throw new Refusal(400, 'ERR failed to parse command: an argument is neither a string nor a number');
}

function parsedCommand(value) {
  if (!Array.isArray(value) || value.length === 0) throw new Refusal(400, 'ERR failed to parse command: not an array');
  return value.map(argument);
}

/** Percent-decoded, byte by byte. */
function decoded(text) {
  const bytes = Buffer.from(text);
  const out = [];
  for (let i = 0; i < bytes.length; i += 1) {
    const hex = bytes[i] === 37 ? bytes.toString('latin1', i + 1, i + 3) : '';
    if (/^[0-9a-fA-F]{2}$/.test(hex)) {
      out.push(parseInt(hex, 16));
      i += 2;
    } else {
      out.push(bytes[i]);
    }
  }
  return Buffer.from(out);
}

function commandOfPath(path, query, body, method) {
  const args = path.split('/').filter((part, index) => index > 0 || part !== '').map(decoded);
  if ((method === 'POST' || method === 'PUT') && body.length > 0) args.push(body);
  for (const pair of query) {
    const [name, value] = pair;
    if (name === '_token') continue;
    args.push(decoded(name));
    if (value !== '') args.push(decoded(value));
  }
  if (args.length === 0 || args[0].length === 0) throw new Refusal(400, 'ERR empty command');
  return args;
}

function body(request) {
  return new Promise((done, failed) => {
    const chunks = [];
    let length = 0;
    request.on('data', (chunk) => {
      length += chunk.length;
      if (length <= REQUEST_BYTES_MAX) chunks.push(chunk);
    });
    request.on('end', () => {
      if (length <= REQUEST_BYTES_MAX) done(Buffer.concat(chunks));
      else failed(new Refusal(400, `ERR max request size exceeded. Limit: ${REQUEST_BYTES_MAX} bytes, Actual: ${length} bytes`));
    });
    request.on('error', failed);
  });
}

const syncToken = (seen) => Buffer.from(JSON.stringify({ seen })).toString('base64url');

function wantedBy(header) {
  if (header === undefined || header === '') return 0;
  try {
    return Number(JSON.parse(Buffer.from(header, 'base64url').toString()).seen) || 0;
  } catch {
    return 0; // Opaque: one that nobody gave out asks for nothing.
  }
}

function permitted(request, query) {
  const bearer = /^Bearer (.*)$/i.exec(request.headers.authorization ?? '')?.[1];
  const given = bearer ?? query.find(([name]) => name === '_token')?.[1];
  if (given === token) return { isReadonly: false };
  if (readonlyToken !== undefined && given === readonlyToken) return { isReadonly: true };
  throw new Refusal(401, 'WRONGPASS invalid or missing auth token. See https://upstash.com/docs/redis/troubleshooting/http_unauthorized for details');
}

function respond(response, code, type, bytes, headers = {}) {
  response.writeHead(code, { 'content-type': type, 'content-length': bytes.length, ...headers });
  response.end(response.req.method === 'HEAD' ? undefined : bytes);
}

async function rest(request, response) {
  const [path, search = ''] = request.url.split('?');
  const query = search.split('&').filter(Boolean).map((pair) => [pair.split('=')[0], pair.split('=').slice(1).join('=')]);
  if (!['HEAD', 'GET', 'POST', 'PUT'].includes(request.method)) throw new Refusal(405, 'ERR method not allowed');
  const bytes = await body(request);
  const { isReadonly } = permitted(request, query);
  const isEncoded = request.headers['upstash-encoding'] === 'base64';
  const format = request.headers['upstash-response-format'] ?? 'json';
  const kind = path === '/pipeline' || path === '/multi-exec' ? path : '/';
  if (!['json', 'resp2'].includes(format)) throw new Refusal(400, 'ERR invalid response format');
  if (format === 'resp2' && isEncoded) throw new Refusal(400, 'ERR base64 encoding is not allowed with resp2');
  const isResp = format === 'resp2' && kind !== '/multi-exec';

  let commands;
  if (path === '/' || kind !== '/') {
    let parsed;
    try {
      parsed = JSON.parse(bytes.toString());
    } catch {
      throw new Refusal(400, 'ERR failed to parse command: invalid JSON');
    }
    if (kind !== '/' && (!Array.isArray(parsed) || parsed.length === 0)) throw new Refusal(400, 'ERR failed to parse pipeline request');
    commands = kind === '/' ? [parsedCommand(parsed)] : parsed.map(parsedCommand);
  } else {
    commands = [commandOfPath(path.slice(1), query, bytes, request.method)];
  }
  commands = commands.map((args) => (OF_CONNECTION.includes(nameOf(args)) ? [Buffer.from('HELLO')] : args));

  const fault = faultOf('rest', path, commands);
  note('rest', path, commands, fault);
  await pause(fault, 'before');
  if (fault?.do === 'cut' && (fault.when ?? 'before') === 'before') return request.socket.destroy();
  if (fault?.do === 'status') {
    const headers = fault.retry_after === undefined ? {} : { 'retry-after': String(fault.retry_after) };
    return respond(response, fault.code, 'application/json', Buffer.from(JSON.stringify({ error: fault.error ?? 'ERR refused' })), headers);
  }
  if (fault?.do === 'html') {
    return respond(response, fault.code ?? 200, 'text/html', Buffer.from(fault.body ?? '<!DOCTYPE html><html><body>Please log in to this network.</body></html>'));
  }
  if (fault?.do === 'redirect') return respond(response, 302, 'text/html', Buffer.alloc(0), { location: fault.location });

  const isAtomic = kind === '/multi-exec';
  // A transaction is discarded as a whole where one of its commands can never run.
  const discarded = isAtomic ? commands.map((args) => answered(args, isReadonly)).find((own) => own?.error !== undefined) : undefined;
  if (discarded !== undefined) throw new Refusal(400, discarded.error);
  const wanted = wantedBy(request.headers['upstash-sync-token']);
  const done = await execute(commands, { isAtomic, isReadonly, wanted, fault });
  await pause(fault, 'after');
  if (fault?.do === 'cut') return request.socket.destroy();

  const headers = { 'upstash-sync-token': syncToken(done.seen) };
  if (isResp) {
    const raw = Buffer.concat(done.replies.map(reply));
    return respond(response, 200, 'application/octet-stream', raw, headers);
  }
  const items = done.replies.map((value) => item(value, isEncoded));
  const code = kind === '/' && items[0].error !== undefined ? 400 : 200;
  let text = Buffer.from(JSON.stringify(kind === '/' ? items[0] : items));
  if (fault?.do === 'truncate') text = text.subarray(0, Math.floor(text.length / 2));
  return respond(response, code, 'application/json', text, headers);
}

// --- TCP -----------------------------------------------------------------------------------------------------------

const sessions = new Set();

function tcp(socket) {
  connections.tcp += 1;
  sessions.add(socket);
  socket.setNoDelay(true);
  const session = { isIn: false, isReadonly: false, wanted: 0, queued: undefined, isBad: false, protocol: 2 };
  let last = Promise.resolve();
  const reader = new Reader((args) => {
    last = last.then(() => serve(socket, session, args)).catch((error) => {
      console.error(error);
      socket.destroy();
    });
  });
  socket.on('data', (chunk) => {
    try {
      reader.push(chunk);
    } catch {
      socket.end('-ERR Protocol error\r\n');
    }
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => sessions.delete(socket));
}

function logIn(session, args) {
  const [user, given] = args.length === 2 ? ['default', args[1].toString()] : [args[1]?.toString(), args[2]?.toString()];
  const isReadonly = readonlyToken !== undefined && given === readonlyToken;
  if (user !== 'default' || !(given === token || isReadonly)) {
    return { error: 'WRONGPASS invalid username-password pair or user is disabled.' };
  }
  Object.assign(session, { isIn: true, isReadonly });
  return { status: 'OK' };
}

/** The handshake of a connection: HELLO [2|3 [AUTH USER TOKEN] [SETNAME NAME]]. */
function hello(session, args) {
  const [given, ...options] = args.slice(1).map(String);
  if (given !== undefined && !['2', '3'].includes(given)) return { error: 'NOPROTO unsupported protocol version' };
  while (options.length > 0) {
    const option = options.shift().toUpperCase();
    if (option === 'AUTH' && options.length >= 2) {
      const told = logIn(session, ['AUTH', ...options.splice(0, 2)]);
      if (told.error !== undefined) return told;
    } else if (option === 'SETNAME' && options.length >= 1) {
      options.shift();
    } else {
      return { error: `ERR Syntax error in HELLO option '${option}'` };
    }
  }
  if (!session.isIn) return { error: 'NOAUTH Authentication required.' };
  session.protocol = Number(given ?? session.protocol);
  const text = (value) => Buffer.from(value);
  return {
    map: [[text('server'), text('redis')], [text('version'), text('8.2.0')], [text('proto'), session.protocol], [text('mode'), text('standalone')], [text('role'), text('master')], [text('modules'), []]],
  };
}

async function serve(socket, session, args) {
  if (socket.destroyed || !Array.isArray(args) || args.length === 0) return;
  const name = nameOf(args);
  const say = (value) => socket.write(reply(value, session.protocol));
  if (name === 'QUIT') return socket.end('+OK\r\n');
  if (name === 'AUTH') return say(logIn(session, args));
  if (name === 'HELLO' && session.queued === undefined) return say(hello(session, args));
  if (!session.isIn) return say({ error: 'NOAUTH Authentication required.' });
  if (name === 'MULTI') {
    if (session.queued !== undefined) return say({ error: 'ERR MULTI calls can not be nested' });
    bill('MULTI');
    Object.assign(session, { queued: [], isBad: false });
    return say({ status: 'OK' });
  }
  if (name === 'DISCARD' || name === 'EXEC') {
    if (session.queued === undefined) return say({ error: `ERR ${name} without MULTI` });
    const { queued, isBad } = session;
    session.queued = undefined;
    bill(name);
    if (name === 'DISCARD') return say({ status: 'OK' });
    if (isBad) return say({ error: 'EXECABORT Transaction discarded because of previous errors.' });
    return request(socket, session, queued, true);
  }
  if (session.queued !== undefined) {
    const refused = answered(args, session.isReadonly);
    if (refused?.error !== undefined) {
      session.isBad = true;
      return say(refused);
    }
    session.queued.push(args);
    return say({ status: 'QUEUED' });
  }
  return request(socket, session, [args], false);
}

async function request(socket, session, commands, isAtomic) {
  const fault = faultOf('tcp', isAtomic ? '/multi-exec' : '/', commands);
  note('tcp', isAtomic ? '/multi-exec' : '/', commands, fault);
  await pause(fault, 'before');
  if (fault?.do === 'cut' && (fault.when ?? 'before') === 'before') return socket.destroy();
  if (fault?.do === 'status') return socket.write(reply({ error: fault.error ?? 'ERR refused' }));
  if (fault?.do === 'html') return socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  const done = await execute(commands, { isAtomic, isReadonly: session.isReadonly, wanted: session.wanted, fault });
  // A session sees its own writes, and never less than before.
  session.wanted = Math.max(session.wanted, done.seen);
  await pause(fault, 'after');
  if (fault?.do === 'cut') return socket.destroy();
  const bytes = reply(isAtomic ? done.replies : done.replies[0], session.protocol);
  if (fault?.do === 'truncate') return socket.end(bytes.subarray(0, Math.max(1, Math.floor(bytes.length / 2))));
  return socket.write(bytes);
}

// --- Control -------------------------------------------------------------------------------------------------------

const control = {
  'GET /stats': () => ({
    billed, commands: commandsBilled, requests, connections, writes: sequence, applied, lost, fired, held: held.length, lag,
  }),
  'GET /log': () => log,
  'POST /reset': async () => {
    [billed, commandsBilled, requests, connections] = [0, {}, { rest: 0, tcp: 0 }, { rest: 0, tcp: 0 }];
    [log, rules, fired, lost, limit, quotaText] = [[], [], 0, 0, Infinity, undefined];
    release();
    await inOneStep(() => lagBy(0));
    return {};
  },
  'POST /fault': (rule) => {
    ruleId += 1;
    rules.push({ ...rule, id: ruleId });
    return { id: ruleId };
  },
  'POST /unfault': ({ id }) => {
    rules = rules.filter((rule) => id !== undefined && rule.id !== id);
    return {};
  },
  'POST /release': ({ id }) => ({ released: release(id) }),
  'POST /quota': ({ limit: most, error }) => {
    limit = most ?? Infinity;
    quotaText = error;
    return {};
  },
  'POST /lag': async ({ ms }) => {
    await inOneStep(() => lagBy(ms));
    return {};
  },
  'POST /lose': async ({ transactions }) => ({ lost: await inOneStep(() => lose(transactions)) }),
  'POST /token': ({ token: other }) => {
    token = other;
    return {};
  },
  'POST /drop': () => {
    for (const socket of sessions) socket.destroy();
    restServer.closeIdleConnections();
    return {};
  },
};

async function controlled(request, response) {
  const handler = control[`${request.method} ${request.url}`];
  if (handler === undefined) return respond(response, 404, 'text/plain', Buffer.from('no such switch: see the head of upstash.mjs\n'));
  const bytes = await body(request);
  const result = await handler(bytes.length > 0 ? JSON.parse(bytes.toString()) : {});
  return respond(response, 200, 'application/json', Buffer.from(JSON.stringify(result)));
}

// --- Listening -----------------------------------------------------------------------------------------------------

const wrapped = (handle) => (request, response) => {
  handle(request, response).catch((error) => {
    if (response.headersSent || response.destroyed) return request.socket.destroy();
    const code = error instanceof Refusal ? error.code : 500;
    if (code === 500) console.error(error);
    respond(response, code, 'application/json', Buffer.from(JSON.stringify({ error: error.message })));
  });
};

const isTls = flags.cert !== undefined;
const secure = isTls ? { cert: readFileSync(flags.cert), key: readFileSync(flags.key) } : {};
const restServer = isTls ? https.createServer(secure, wrapped(rest)) : http.createServer(wrapped(rest));
restServer.keepAliveTimeout = 60_000;
restServer.on(isTls ? 'secureConnection' : 'connection', () => (connections.rest += 1));
const tcpServer = isTls ? tls.createServer(secure, tcp) : net.createServer(tcp);
const controlServer = http.createServer(wrapped(controlled));
for (const server of [restServer, tcpServer]) server.on('tlsClientError', () => {});

const listen = (server, port, address) =>
  new Promise((done, failed) => server.once('error', failed).listen(Number(port ?? 0), address, () => done(server.address().port)));
const ready = await leader.ready;
if (ready?.error !== undefined || (await replica.ready)?.error !== undefined) process.exit(69);
await replica.send(['FLUSHDB', 'SYNC']);
const ports = {
  rest: await listen(restServer, flags['rest-port'], host),
  tcp: await listen(tcpServer, flags['tcp-port'], host),
  control: await listen(controlServer, flags['control-port'], '127.0.0.1'),
};
console.log(JSON.stringify(ports));
process.on('SIGTERM', () => process.exit(0));
