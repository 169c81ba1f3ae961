-- A job is taken. KEYS, here alone: job, an owner's jobs, set of open jobs, set of jobs with traces.
-- ARGV: what the owner's jobs begin with, their most, the job's id, seconds, then fields and values.
-- → OK | FULL
local owner, most, id, now = unpack(ARGV, 1, 4)
local n = 0
for _, name in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  -- An owner's name may begin like another's and go on: ids are all of one length.
  if #name == #KEYS[1] and string.sub(name, 1, #owner) == owner then n = n + 1 end
end
if n >= tonumber(most) then return {'FULL'} end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('ZADD', KEYS[2], now, id)
redis.call('SADD', KEYS[3], KEYS[1])
redis.call('SADD', KEYS[4], KEYS[1])
return {'OK'}
