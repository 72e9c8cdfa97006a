-- Put an amount aside in all periods of a subject, or in none.
-- KEYS  1 the reservation's record, then one counter a period, at last the hash of what the subject has put aside
-- ARGV  1 amount, 2 seconds to keep the record, then for each counter its limit ('' to count without asking) and the
--       second at which it may be forgotten ('' for never), at last whose reservation it is ('' when nobody knows)
-- Amounts are whole nano-dollars. They are compared as doubles, exact up to the largest limit (2^53 - 1), and added by
-- INCRBY, exact always.
-- Returns the number of the counter that has no room (0: all had), and what each holds now; -1 when a counter would be
-- forgotten at once: the clock of who asks is days behind this one.

-- It was cancelled before it arrived, or is repeated: once is enough.
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end

local time = redis.call('TIME')[1]
for i = 2, #KEYS - 1 do
  if ARGV[2 * i] ~= '' and tonumber(ARGV[2 * i]) <= tonumber(time) then return {-1} end
end

local answer = {0}
for i = 2, #KEYS - 1 do
  local used = redis.call('GET', KEYS[i]) or '0'
  local limit = tonumber(ARGV[2 * i - 1])
  if answer[1] == 0 and limit and tonumber(used) + tonumber(ARGV[1]) > limit then answer[1] = i - 1 end
  answer[i] = used
end
if answer[1] == 0 then
  for i = 2, #KEYS - 1 do
    redis.call('INCRBY', KEYS[i], ARGV[1])
    if ARGV[2 * i] ~= '' then redis.call('EXPIREAT', KEYS[i], ARGV[2 * i]) end
    answer[i] = redis.call('GET', KEYS[i])
  end
  redis.call('SET', KEYS[1], 'open', 'EX', ARGV[2])
  if ARGV[#ARGV] ~= '' then redis.call('HSET', KEYS[#KEYS], KEYS[1], ARGV[#ARGV]) end
end
return answer
