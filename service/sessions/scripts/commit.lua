-- One round trip for every running turn of a process. KEYS: records. ARGV: stamp, then for each
-- record: fence, from, tokens, status or '', name of the snapshot or '', its bytes, mark or ''.
-- → for each: COMMITTED position | NOT_FOUND | FENCED | CONFLICT | GAP position
local NAMES = {'fence', 'position', 'width', 'tail', 'base', 'snapshot', 'state_shared', 'ttl',
  'active', 'status', 'chain', 'shared', 'request_key', 'epoch'}

local function commit(name, fence, from, added, status, snapshot, state, mark)
  local values, r = redis.call('HMGET', name, unpack(NAMES)), {name = name}
  if not values[1] then return 'NOT_FOUND', 0 end
  for i, field in ipairs(NAMES) do r[field] = values[i] end
  for _, field in ipairs({'position', 'width', 'base', 'ttl'}) do r[field] = tonumber(r[field]) end
  local to = from + #added / r.width
  if r.fence ~= fence then return 'FENCED', r.position end
  if r.active == '' then -- ended: by this very call, if its reply was lost
    local is_ours = status ~= '' and r.position == to and tokens(r, from, to) == added
    return is_ours and 'COMMITTED' or 'FENCED', r.position
  end
  if from > r.position then -- the store has lost what it had acknowledged
    finish(r, 'lost')
    redis.call('HINCRBY', name, 'epoch', 1)
    return 'GAP', r.position
  end
  local there = math.min(r.position, to) -- a lost reply: these came before
  if there > from and tokens(r, from, there) ~= string.sub(added, 1, (there - from) * r.width) then
    return 'CONFLICT', r.position
  end
  local log = key('log', r.tail)
  if to > r.position then
    local length = redis.call('APPEND', log, string.sub(added, (there - from) * r.width + 1))
    if length ~= (to - r.base) * r.width then -- a log that somebody has taken away
      finish(r, 'lost')
      touch(r)
      return 'NOT_FOUND', r.position
    end
    if r.position == r.base then keep(log, r.ttl) end -- the segment's first tokens
    r.position = to
  end
  redis.call('HSET', name, 'position', r.position, 'stamp', ARGV[1])
  if state ~= '' then
    redis.call('SET', key('state', snapshot), state, 'EX', r.ttl)
    if r.snapshot ~= snapshot then
      drop_snapshot(r)
      redis.call('HSET', name, 'snapshot', snapshot, 'state_shared', '0')
      r.snapshot = snapshot
    end
    if mark ~= '' then
      local value = snapshot_position(r) .. ':' .. state
      redis.call('SET', key('mark', mark), value, 'EX', r.ttl, 'NX')
    end
    touch(r)
  end
  if status ~= '' then
    if redis.call('STRLEN', log) <= TRIM_LIMIT then -- what APPEND has reserved
      local whole = redis.call('GET', log)
      if whole then redis.call('SET', log, whole, 'KEEPTTL') end
    end
    finish(r, status)
    touch(r)
  end
  return 'COMMITTED', r.position
end

local replies = {}
for i, name in ipairs(KEYS) do
  local a = 1 + (i - 1) * 7
  local status, position = commit(name, ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3],
    ARGV[a + 4], ARGV[a + 5], ARGV[a + 6], ARGV[a + 7])
  replies[#replies + 1] = status
  replies[#replies + 1] = position
end
return replies
