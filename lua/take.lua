-- take a lease that is another at each run
local found = redis.call('GET', KEYS[1])
if found then return found end
local time = redis.call('TIME')
local lease = ARGV[1] .. ':' .. time[1] .. ':' .. time[2]
redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
return lease
