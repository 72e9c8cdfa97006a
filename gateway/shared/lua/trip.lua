-- Open a breaker: nobody asks its upstream for a while.
-- KEYS  1 hash: `until` (microseconds of the server's clock) and `trial` (the end of the one under way, 0 for none)
-- ARGV  1 milliseconds to stay open, 2 milliseconds after that for which it is remembered that it must be tried
-- Returns how it stands, as trial.lua does.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local ends = math.max(now + ARGV[1] * 1000, tonumber(redis.call('HGET', KEYS[1], 'until') or 0))
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', ends), 'trial', '0')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (ends - now) / 1000 + ARGV[2]))
return {0, math.ceil((ends - now) / 1000), 0}
