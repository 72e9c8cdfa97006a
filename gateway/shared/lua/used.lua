-- What the counters of a subject hold, all of the same moment.
-- KEYS  one counter a period

return redis.call('MGET', unpack(KEYS))
