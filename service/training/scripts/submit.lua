-- Record a new job. KEYS: job, its owner's jobs, set of open jobs. ARGV: how many of the
-- owner's jobs may be open, the job's id, seconds since 1970, then fields and values of the record.
-- Returns OK or FULL.
local limit, id, now = unpack(ARGV, 1, 3)
if count_open(KEYS[3]) >= tonumber(limit) then return {'FULL'} end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('ZADD', KEYS[2], now, id)
redis.call('SADD', KEYS[3], KEYS[1])
return {'OK'}
