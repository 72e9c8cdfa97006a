-- Keep a value for a time, within a bound on all of them together.
-- KEYS  1 the value, 2 sorted set: every value's weight and key, by the millisecond at which it ends, 3 the sum of weights
-- ARGV  1 the value, 2 milliseconds to keep it (0: keep none, and forget the one that is there), 3 what a value weighs
--       beside its key and its bytes, 4 the most that all may weigh
-- Numbers are written out in full: Lua's own way would round them.

local BATCH = 1000 -- of what is too old, at most so many are taken out at once, for others wait meanwhile

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local used = tonumber(redis.call('GET', KEYS[3]) or '0')

local function number(value) return string.format('%.0f', value) end

local function gone(member)
  local weight, key = string.match(member, '^(%d+):(.*)$')
  used = used - weight
  return key
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', number(now), 'LIMIT', 0, BATCH)) do
  redis.call('ZREM', KEYS[2], member)
  gone(member)
end

local fixed = #KEYS[1] + tonumber(ARGV[3])
local before = number(fixed + redis.call('STRLEN', KEYS[1])) .. ':' .. KEYS[1]
if redis.call('ZREM', KEYS[2], before) == 1 then gone(before) end
redis.call('DEL', KEYS[1])

local lasts = tonumber(ARGV[2])
if lasts > 0 then
  local weight, limit = fixed + #ARGV[1], tonumber(ARGV[4])
  while used + weight > limit do
    local soonest = redis.call('ZPOPMIN', KEYS[2])
    if not soonest[1] then break end
    redis.call('DEL', gone(soonest[1]))
  end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  redis.call('ZADD', KEYS[2], number(now + lasts), number(weight) .. ':' .. KEYS[1])
  used = used + weight
end

-- Both last as long as the last of the values.
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if last[1] then
  local left = number(math.max(1000, last[2] - now + 1000))
  redis.call('PEXPIRE', KEYS[2], left)
  redis.call('SET', KEYS[3], number(used), 'PX', left)
else
  redis.call('DEL', KEYS[2], KEYS[3])
end
return 1
