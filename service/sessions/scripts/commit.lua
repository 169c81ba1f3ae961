-- Commit every running turn of a process. KEYS: records, on a cluster one. ARGV: record version, then for each
-- record: fencing token, position, tokens, status or '', name of the snapshot or '', its bytes,
-- number of the retained snapshot that it also becomes or '', the checksum of the tokens as in
-- `add_sum`. An entry without tokens still
-- checks the fence, writes a new record version and, when it is due, refreshes the expiry.
-- → for each: COMMITTED position | NOT_FOUND | FENCED | CANCELLED | CONFLICT | GAP position
local TRIM_LIMIT = 8192
local NAMES = {'nonce', 'position', 'width', 'tail', 'base', 'snapshot', 'state_shared', 'ttl',
  'active', 'status', 'chain', 'shared', 'request_key', 'epoch', 'steer'}

-- Free the memory that APPEND has reserved, if the log's tail is no larger than a snapshot.
local function trim(r)
  if (r.position - r.base) * r.width > TRIM_LIMIT then return end
  local log = key('log', r.tail)
  local whole = redis.call('GET', log)
  if whole then redis.call('SET', log, whole, 'KEEPTTL') end
end

local function commit(name, nonce, from, added, status, snapshot, state, mark, sum)
  local values, r = redis.call('HMGET', name, unpack(NAMES)), {name = name}
  if not values[1] then return 'NOT_FOUND', 0 end
  for i, field in ipairs(NAMES) do r[field] = values[i] end
  for _, field in ipairs({'position', 'width', 'base', 'ttl'}) do r[field] = tonumber(r[field]) end
  local to = from + #added / r.width
  if r.nonce ~= nonce then
    return r.nonce == cancelled(nonce) and 'CANCELLED' or 'FENCED', r.position
  end
  if r.active == '' then -- ended, perhaps by an earlier attempt of this call
    local is_ours = status ~= '' and r.position == to and raw_tokens(r, from, to) == added
    return is_ours and 'COMMITTED' or 'FENCED', r.position
  end
  if from > r.position then -- the store has lost acknowledged tokens
    finish(r, 'lost')
    redis.call('HINCRBY', name, 'epoch', 1)
    return 'GAP', r.position
  end
  local there = math.min(r.position, to) -- an earlier attempt has committed up to here
  if there > from and raw_tokens(r, from, there) ~= string.sub(added, 1, (there - from) * r.width) then
    return 'CONFLICT', r.position
  end
  if to > r.position then
    local length = append(r, string.sub(added, (there - from) * r.width + 1))
    if length ~= to - r.base then -- the log has been deleted or truncated
      finish(r, 'lost')
      touch(r)
      return 'NOT_FOUND', r.position
    end
    add_sum(r, length, to - from, sum)
    r.position = to
  end
  local changed = {'position', r.position, 'stamp', ARGV[1]}
  if state ~= '' then
    redis.call('SET', key('state', snapshot), state, 'EX', r.ttl)
    if r.snapshot ~= snapshot then
      drop_snapshot(r)
      r.snapshot = snapshot
      for _, part in ipairs({'snapshot', snapshot, 'state_shared', '0'}) do
        changed[#changed + 1] = part
      end
    end
    local position = snapshot_position(r)
    for _, s in ipairs(mark ~= '' and segments(r) or {}) do
      if s.first < position and position < s.last then
        local value = position .. ':' .. state
        redis.call('SET', key('mark', s.id .. ':' .. mark), value, 'EX', r.ttl, 'NX')
      end
    end
  end
  if status ~= '' then
    trim(r)
    finish(r, status, changed)
  else
    redis.call('HSET', name, unpack(changed))
  end
  touch(r)
  return 'COMMITTED', r.position
end

if IS_CLUSTER then -- one record
  local r, snapshot, mark = load(KEYS[1]), ARGV[6], ARGV[8]
  if r then
    want_session(r)
    if snapshot ~= '' then want(key('state', snapshot)) end
    for _, s in ipairs(mark ~= '' and segments(r) or {}) do want(key('mark', s.id .. ':' .. mark)) end
    local reply = lacks()
    if reply then return reply end
  end
end
local replies = {}
for i = 1, (#ARGV - 1) / 8 do
  local a, name = 1 + (i - 1) * 8, KEYS[i]
  local status, position = commit(name, ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3],
    ARGV[a + 4], ARGV[a + 5], ARGV[a + 6], ARGV[a + 7], ARGV[a + 8])
  replies[#replies + 1] = status
  replies[#replies + 1] = position
end
return replies
