-- KEYS: record, turn. ARGV: distance of marks. → DELETED | NOT_FOUND
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
local distance = tonumber(ARGV[1])
for _, s in ipairs(segments(r)) do
  if not s.shared then
    redis.call('DEL', key('log', s.id))
    for k = math.floor(s.first / distance), math.floor(s.last / distance) do
      redis.call('DEL', key('mark', s.id .. ':' .. k))
    end
  end
end
drop_snapshot(r)
redis.call('DEL', KEYS[1], KEYS[2])
return {'DELETED'}
