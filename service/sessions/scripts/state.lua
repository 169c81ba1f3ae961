-- Find the latest state that has consumed fewer than `below` tokens. KEYS: record.
-- ARGV: below, distance of retained snapshots, 1 if the latest snapshot may be used.
-- → FOUND state or '' | NOT_FOUND
local below, distance = tonumber(ARGV[1]), tonumber(ARGV[2])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if IS_CLUSTER then
  want_session(r, distance)
  local reply = lacks()
  if reply then return reply end
end
if ARGV[3] == '1' and r.snapshot ~= '' and snapshot_position(r) < below then
  return {'FOUND', redis.call('GET', key('state', r.snapshot)) or ''}
end
local list = segments(r)
for k = math.floor((below - 1) / distance), 0, -1 do
  for i = #list, 1, -1 do
    local s = list[i]
    if s.first < (k + 1) * distance and s.last > k * distance then
      local value = redis.call('GET', key('mark', s.id .. ':' .. k)) or ''
      local position = string.match(value, '^%d+')
      if position and tonumber(position) < below and tonumber(position) < s.last then
        return {'FOUND', string.sub(value, #position + 2)}
      end
    end
  end
end
return {'FOUND', ''}
