-- Look a value up.
-- KEYS  1 the value
-- Returns it; nil when it was forgotten.

return redis.call('GET', KEYS[1])
