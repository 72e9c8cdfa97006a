-- Close a breaker.
-- KEYS  as in trip.lua

return redis.call('DEL', KEYS[1])
