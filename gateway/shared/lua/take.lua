-- Take a request, its tokens and a place for one subject, or nothing at all.
-- KEYS  1 hash: the buckets (requests, requests_at, tokens, tokens_at); 2 sorted set: places by the time they expire
-- ARGV  1 place, 2 milliseconds a place lasts, 3 tokens, then the limits ('' where there is none):
--       4 requests per minute, 5 tokens per minute, 6 requests at once
-- Returns what refused it ('' when nothing did), and the requests and tokens in use, with this one when it was admitted.
-- The time is the server's, in microseconds. Numbers are written out in full: Lua's own way would round them.

local GRAIN = 1e-6
local MINUTE = 60000000

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local tokens = tonumber(ARGV[3])
local per_minute, tokens_per_minute, at_once = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function level(name, limit)
  if not limit then return 0 end
  local found = redis.call('HMGET', KEYS[1], name, name .. '_at')
  if not found[1] then return 0 end
  return math.max(0, found[1] - math.max(0, now - found[2]) * limit / MINUTE)
end

local requests, used = level('requests', per_minute), level('tokens', tokens_per_minute)
local refused = ''
if at_once then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
  if redis.call('ZCARD', KEYS[2]) >= at_once then refused = 'concurrent' end
end
if tokens_per_minute and used + tokens > tokens_per_minute + GRAIN then refused = 'tokens' end
if per_minute and requests + 1 > per_minute + GRAIN then refused = 'requests' end

if refused == '' then
  local full = 0
  local function put(name, units, limit)
    redis.call('HSET', KEYS[1], name, string.format('%.17g', units), name .. '_at', string.format('%.0f', now))
    full = math.max(full, units / limit)
  end
  if per_minute then
    requests = requests + 1
    put('requests', requests, per_minute)
  end
  if tokens_per_minute then
    used = used + tokens
    put('tokens', used, tokens_per_minute)
  end
  -- Full buckets need not be remembered.
  if full > 0 then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(full * 60000) + 1000)) end
  if at_once then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[2] * 1000), ARGV[1])
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
return {refused, string.format('%.17g', requests), string.format('%.17g', used)}
