-- Give a place back, and correct the tokens that were taken with it.
-- KEYS  as in take.lua
-- ARGV  1 place, 2 change in tokens ('' for none), 3 tokens per minute ('' when there is no limit)

redis.call('ZREM', KEYS[2], ARGV[1])
local change, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
if change and limit then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000000 + clock[2]
  local found = redis.call('HMGET', KEYS[1], 'tokens', 'tokens_at')
  local used = 0
  if found[1] then used = math.max(0, found[1] - math.max(0, now - found[2]) * limit / 60000000) end
  used = math.max(0, used + change)
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', used), 'tokens_at', string.format('%.0f', now))
  local needed = math.ceil(used / limit * 60000) + 1000
  if redis.call('PTTL', KEYS[1]) < needed then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', needed)) end
end
return 0
