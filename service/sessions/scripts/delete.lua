-- Delete a session. KEYS: record. ARGV: distance of retained snapshots. → DELETED | NOT_FOUND
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
drop_all_but(r, {}, tonumber(ARGV[1]))
drop_snapshot(r)
redis.call('DEL', KEYS[1], request_of(r))
local index, id = index_of(r.name)
redis.call('ZREM', index, id)
return {'DELETED'}
