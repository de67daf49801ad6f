// The scripts of the cache handler for Next. Each runs as one step of the server.
//
// A *clock* counts: its number grows with each key that is made, never goes back, and has another `epoch` when it was lost.
// Each tag has a *generation key*, whose text is the epoch and the number at which it was made. crieur deletes it, like any key.
// An entry keeps the texts of its tags' keys, and stands as long as each of them does.
//
// The clock's number that was read before a render began proves the rest: a generation key with a larger number was made
// after that, so its tag was expired meanwhile, perhaps before the render read its rows.

/** KEYS: the clock. ARGV: an epoch for a new clock, milliseconds that keys stand, what comes before a tag in its key. */
const CLOCK = `
local function stamp(n)
  local time = redis.call('TIME')
  return math.max(n + 1, time[1] * 1000000 + time[2])
end
local function text(n) return string.format('%.0f', n) end
local clock = redis.call('HMGET', KEYS[1], 'epoch', 'n')
local epoch, n = clock[1], tonumber(clock[2] or 0)
if not epoch then
  epoch, n = ARGV[1], stamp(0)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'n', text(n))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local function make(tags)
  if #tags == 0 then return end
  n = stamp(n)
  redis.call('HSET', KEYS[1], 'n', text(n))
  for _, tag in ipairs(tags) do redis.call('SET', ARGV[3] .. tag, epoch .. ':' .. text(n), 'PX', ARGV[2]) end
end
`;

/**
 * The entry, if it stands, and the number of the clock. Where it does not, the keys of its tags are made, so that the render
 * that follows can be stored.
 * KEYS: the clock, the entry. ARGV: as above; how many tags the reader names; these; the paths that the reader is on.
 */
export const LOOK = `${CLOCK}
local entry = redis.call('HMGET', KEYS[2], 'epoch', 'n', 'tags', 'paths', 'value')
local stands = entry[1] == epoch
local tags = cjson.decode(entry[3] or '{}')
local missing = {}
for tag, token in pairs(tags) do
  local found = redis.call('GET', ARGV[3] .. tag)
  if found ~= token then stands = false end
  if not found then missing[#missing + 1] = tag end
end
local named = 4 + ARGV[4]
for i = 5, named do
  if not tags[ARGV[i]] then
    stands = false
    if redis.call('EXISTS', ARGV[3] .. ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
  end
end
local function expired(path)
  local at = redis.call('HGET', KEYS[1], 'path:' .. path)
  if at and tonumber(at) > tonumber(entry[2] or 0) then stands = false end
end
for i = named + 1, #ARGV do expired(ARGV[i]) end
for _, path in ipairs(cjson.decode(entry[4] or '[]')) do expired(path) end
if not stands then make(missing) end
return { epoch, text(n), stands and entry[5], entry[3] }`;

/**
 * Stores an entry, unless one of its tags was expired since its render began. Answers 1, or 0.
 * KEYS: the clock, the entry. ARGV: as above; the epoch and the number of the clock before the render; milliseconds that the
 * entry stands; its text; its paths as JSON; its tags.
 */
export const SAVE = `${CLOCK}
local fits = epoch == ARGV[4]
local tokens, missing = {}, {}
for i = 9, #ARGV do
  local found = redis.call('GET', ARGV[3] .. ARGV[i])
  if found then
    local of, at = string.match(found, '^(.*):(%d+)$')
    if of == epoch and tonumber(at) > tonumber(ARGV[5]) then fits = false end
    tokens[ARGV[i]] = found
    redis.call('PEXPIRE', ARGV[3] .. ARGV[i], ARGV[2])
  else
    fits = false
    missing[#missing + 1] = ARGV[i]
  end
end
make(missing)
if not fits then return 0 end
redis.call('HSET', KEYS[2], 'epoch', epoch, 'n', ARGV[5], 'tags', cjson.encode(tokens), 'paths', ARGV[8], 'value', ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return 1`;

/**
 * Expires tags, and paths of \`revalidatePath\`. A path has no key of its own, since a key that is evicted would be forgotten:
 * the clock says when it was expired. With too many of them it begins anew, which expires everything.
 * KEYS: the clock. ARGV: as above; how many tags there are; these; the paths.
 */
export const EXPIRE = `${CLOCK}
local named = 4 + ARGV[4]
for i = 5, named do redis.call('UNLINK', ARGV[3] .. ARGV[i]) end
if named == #ARGV then return 1 end
n = stamp(n)
redis.call('HSET', KEYS[1], 'n', text(n))
for i = named + 1, #ARGV do redis.call('HSET', KEYS[1], 'path:' .. ARGV[i], text(n)) end
if redis.call('HLEN', KEYS[1]) > 10000 then redis.call('UNLINK', KEYS[1]) end
return 1`;
