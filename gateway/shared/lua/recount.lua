-- Set the counters of a subject, unless something was reserved or settled since they were looked at.
-- KEYS  as in aside.lua
-- ARGV  1 how many reservations there were, then for each counter what it held, what it is to hold, and the second at
--       which it may be forgotten ('' for never), then the records of the reservations
-- Returns 1 when it did, 0 when something has changed.

if redis.call('HLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
for i = 3 * (#KEYS - 1) + 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then return 0 end
end
for i = 2, #KEYS do
  if (redis.call('GET', KEYS[i]) or '0') ~= ARGV[3 * i - 4] then return 0 end
end
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], ARGV[3 * i - 3])
  if ARGV[3 * i - 2] ~= '' then redis.call('EXPIREAT', KEYS[i], ARGV[3 * i - 2]) end
end
return 1
