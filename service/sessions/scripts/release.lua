-- Allow any process to take over a turn. KEYS: record. ARGV: fencing token. → RELEASED
local nonce, active = unpack(redis.call('HMGET', KEYS[1], 'nonce', 'active'))
if nonce == ARGV[1] and active ~= '' then redis.call('HSET', KEYS[1], 'holder', '') end
return {'RELEASED'}
