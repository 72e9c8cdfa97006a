-- What a subject has put aside, and what its counters hold, of one moment.
-- KEYS  1 the hash of what the subject has put aside, then one counter a period

local counters = {}
for i = 2, #KEYS do counters[i - 1] = redis.call('GET', KEYS[i]) or '0' end
return {redis.call('HGETALL', KEYS[1]), counters}
