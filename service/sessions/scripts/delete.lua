-- Delete a session. KEYS: record. ARGV: distance of retained snapshots. → DELETED | NOT_FOUND
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if IS_CLUSTER then
  want_session(r, tonumber(ARGV[1]))
  local reply = lacks()
  if reply then return reply end
end
drop_all_but(r, {}, tonumber(ARGV[1]))
drop_snapshot(r)
redis.call('DEL', KEYS[1], request_of(r))
if not IS_CLUSTER then
  local index, id = index_of(r.name)
  redis.call('ZREM', index, id)
end
return {'DELETED'}
