-- Enter sessions into the index of their owner, on a cluster. KEYS: index. ARGV: the owner's
-- sessions at most or 0, their ttl, 1 if those that are there begin anew, the time or '' for now, ids.
-- → ENTERED, ids that were there, members and times of a few others | LIMIT, of many: an id of which
--   the session has expired is to be dropped, and the call repeated
local index, most, ttl, anew, time = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', ARGV[4]
local now = time ~= '' and time or now_ms()
local there, new = {}, 0
for i = 5, #ARGV do
  if redis.call('ZSCORE', index, ARGV[i]) then there[#there + 1] = ARGV[i] else new = new + 1 end
end

local function with_times(...)
  local list, seen = {}, {}
  for _, members in ipairs({...}) do
    for _, id in ipairs(members) do
      if not seen[id] then
        seen[id] = true
        list[#list + 1] = id
        list[#list + 1] = redis.call('ZSCORE', index, id)
      end
    end
  end
  return list
end

if most > 0 and new > 0 and redis.call('ZCARD', index) + new > most then
  local oldest, some = redis.call('ZRANGE', index, 0, 199), redis.call('ZRANDMEMBER', index, 200)
  return {'LIMIT', with_times(oldest, some)}
end
local others = new > 0 and redis.call('ZRANDMEMBER', index, 3) or {}
for i = 5, #ARGV do
  if anew then redis.call('ZADD', index, now, ARGV[i])
  else redis.call('ZADD', index, 'NX', now, ARGV[i]) end
end
keep(index, ttl)
return {'ENTERED', there, with_times(others)}
