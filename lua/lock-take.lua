-- take a lock, or see for how long another's stands
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local time = redis.call('TIME')
return {1, time[1] .. string.format('%06d', time[2])}
