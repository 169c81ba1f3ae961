-- Write the record ARGV[1] of the hash KEYS[1] as ARGV[3], if it is ARGV[2] still ('': not there).
-- A call that is repeated after its reply was lost has the effect of one.
local current = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if current ~= ARGV[3] then
  if current ~= ARGV[2] then
    return {0}
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return {1}
