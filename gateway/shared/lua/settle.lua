-- Count what was spent instead of what was put aside.
-- KEYS  as in reserve.lua
-- ARGV  1 spent, 2 spent less the amount put aside, 3 seconds to keep the record, then for each counter the second at
--       which it may be forgotten ('' for never)
-- Returns 1 when it counted, 0 when it had been settled before.

local state = redis.call('GET', KEYS[1])
if state == 'settled' then return 0 end
-- A reservation that this server does not know was made without it, or lost by it: all of it is news.
local change = ARGV[1]
if state then change = ARGV[2] end
for i = 2, #KEYS do
  redis.call('INCRBY', KEYS[i], change)
  if ARGV[i + 2] ~= '' then redis.call('EXPIREAT', KEYS[i], ARGV[i + 2]) end
end
redis.call('SET', KEYS[1], 'settled', 'EX', ARGV[3])
return 1
