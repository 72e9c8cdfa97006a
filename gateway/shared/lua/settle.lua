-- Count what was spent instead of what was put aside.
-- KEYS  as in reserve.lua
-- ARGV  1 spent, 2 spent less the amount put aside, 3 seconds to keep the record, then for each counter the second at
--       which it may be forgotten ('' for never), at last 'settled', or 'recovered' for a process that died
-- Returns 1 when it counted, 0 when it had been settled before.

local state, recovers = redis.call('GET', KEYS[1]), ARGV[#ARGV] == 'recovered'
local aside = redis.call('HDEL', KEYS[#KEYS], KEYS[1])
if state == 'settled' or (recovers and aside == 0) then return 0 end
-- A reservation that this server does not know was made without it, or lost by it: all of it is news.
local change = ARGV[1]
if state or recovers then change = ARGV[2] end
-- It was only thought dead: the truth comes in the place of what was counted for it.
local counted = state and string.match(state, '^recovered:(%d+)$')
if counted then change = string.format('%.0f', tonumber(ARGV[1]) - tonumber(counted)) end
for i = 2, #KEYS - 1 do
  redis.call('INCRBY', KEYS[i], change)
  if ARGV[i + 2] ~= '' then redis.call('EXPIREAT', KEYS[i], ARGV[i + 2]) end
end
redis.call('SET', KEYS[1], recovers and 'recovered:' .. ARGV[1] or 'settled', 'EX', ARGV[3])
return 1
