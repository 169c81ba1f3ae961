-- Let anybody take over a turn that cannot go on here. KEYS: record. ARGV: nonce of its beginning.
local nonce, active = unpack(redis.call('HMGET', KEYS[1], 'nonce', 'active'))
if nonce == ARGV[1] and active ~= '' then redis.call('HSET', KEYS[1], 'holder', '') end
return {'RELEASED'}
