-- An attempt says that it lives. KEYS: job, lease. ARGV: attempt, lease in ms.
-- → OK | CANCEL | FENCED
local was = redis.call('HMGET', KEYS[1], 'attempt', 'status', 'cancel')
if was[1] ~= ARGV[1] or was[2] ~= 'running' then return 'FENCED' end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return was[3] == '1' and 'CANCEL' or 'OK'
