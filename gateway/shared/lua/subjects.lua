-- The subjects that may have put something aside.
-- KEYS  1 the set of them
-- ARGV  one more of them; without, they are returned

if #ARGV > 0 then return redis.call('SADD', KEYS[1], ARGV[1]) end
return redis.call('SMEMBERS', KEYS[1])
