-- Drop ids from an index, on a cluster. KEYS: index. ARGV: ids and times, as they were found; '' is
-- any time. An id that was entered in the last minute stays, since its session may not be created
-- yet, and so does one that was entered anew. → DROPPED n
local n, latest = 0, now_ms() - 60000
for i = 1, #ARGV, 2 do
  local time = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if time and (ARGV[i + 1] == '' or time == ARGV[i + 1] and tonumber(time) <= latest) then
    n = n + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return {'DROPPED', n}
