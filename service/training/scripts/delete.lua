-- Delete a train job that is over. KEYS: as in change.lua, then the owner's jobs. ARGV: the job's id.
-- Returns OK, NOT_FOUND or OPEN.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'NOT_FOUND'} end
if redis.call('SISMEMBER', KEYS[5], KEYS[1]) == 1 then return {'OPEN'} end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SREM', KEYS[6], KEYS[1])
redis.call('ZREM', KEYS[7], ARGV[1])
return {'OK'}
