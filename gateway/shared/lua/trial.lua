-- Become the one that tries an upstream whose breaker is open no longer.
-- KEYS  as in trip.lua
-- ARGV  1 milliseconds after which another may try ('' to give the trial back)
-- Returns 1 when it may ask, and how the breaker stands: milliseconds until it may be tried (-1: it is closed), and
-- milliseconds that a trial under way has left.

local found = redis.call('HMGET', KEYS[1], 'until', 'trial')
if not found[1] then return {1, -1, 0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if ARGV[1] == '' then
  redis.call('HSET', KEYS[1], 'trial', '0')
  return {1, math.max(0, math.ceil((found[1] - now) / 1000)), 0}
end
if now < tonumber(found[1]) then return {0, math.ceil((found[1] - now) / 1000), 0} end
if now < tonumber(found[2]) then return {0, 0, math.ceil((found[2] - now) / 1000)} end
redis.call('HSET', KEYS[1], 'trial', string.format('%.0f', now + ARGV[1] * 1000))
return {1, 0, tonumber(ARGV[1])}
