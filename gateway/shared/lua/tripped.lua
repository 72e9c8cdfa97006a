-- How one breaker stands: milliseconds until it may be tried (-1: it is closed), and those of a trial under way.
-- KEYS  as in trip.lua

local found = redis.call('HMGET', KEYS[1], 'until', 'trial')
if not found[1] then return {-1, 0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
return {math.max(0, math.ceil((found[1] - now) / 1000)), math.max(0, math.ceil((found[2] - now) / 1000))}
