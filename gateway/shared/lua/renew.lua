-- Keep the places of requests that are still under way; also those that a server that was away has forgotten.
-- KEYS  1 sorted set: places of one subject
-- ARGV  1 milliseconds a place lasts, then the places

local clock = redis.call('TIME')
local expires = string.format('%.0f', clock[1] * 1000000 + clock[2] + ARGV[1] * 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], expires, ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
