-- Record a new job. KEYS: job, its owner's jobs, set of open jobs. ARGV: what the keys of the owner's
-- jobs begin with, how many may be open, the job's id, seconds since 1970, then fields and values of
-- the record.
-- Returns OK or FULL.
local owner, most, id, now = unpack(ARGV, 1, 4)
local n = 0
for _, name in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  -- The name of another owner may have this one as its beginning; ids are all of one length.
  if #name == #KEYS[1] and string.sub(name, 1, #owner) == owner then n = n + 1 end
end
if n >= tonumber(most) then return {'FULL'} end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('ZADD', KEYS[2], now, id)
redis.call('SADD', KEYS[3], KEYS[1])
return {'OK'}
