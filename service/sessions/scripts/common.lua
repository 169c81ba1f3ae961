-- The common part of every script. `docs/reference/store.md` lists the keys, and the fields whose
-- names differ from those in the code. Positions count tokens; a segment's bytes are its tokens,
-- `width` bytes each, little endian.

local PREFIX = 'carousel:'
local MOST_SEGMENTS = 12

local function key(kind, name) return PREFIX .. kind .. ':' .. name end

local function fields_of(name)
  local flat, record = redis.call('HGETALL', name), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return #flat > 0 and record or nil
end

-- Read a session's record, with its numbers converted, or return nil.
local function load(name)
  local r = fields_of(name)
  if r then
    r.name = name
    for _, field in ipairs({'width', 'epoch', 'turn', 'position', 'base', 'ttl'}) do
      r[field] = tonumber(r[field])
    end
  end
  return r
end

-- The log is a chain of append-only segments. Forks and rewinds share the segments before them.
local function segments(r)
  local list, first = {}, 0
  for id, last, shared in string.gmatch(r.chain, '([^:,]+):(%d+):(%d)') do
    list[#list + 1] = {id = id, first = first, last = tonumber(last), shared = shared == '1'}
    first = tonumber(last)
  end
  list[#list + 1] = {id = r.tail, first = r.base, last = r.position, shared = r.shared == '1'}
  return list
end

local function chain_of(list)
  local parts = {}
  for i, s in ipairs(list) do parts[i] = s.id .. ':' .. s.last .. ':' .. (s.shared and 1 or 0) end
  return table.concat(parts, ',')
end

-- Return the part of the chain before `position`, including the tail.
local function before(r, position)
  local list = {}
  for _, s in ipairs(segments(r)) do
    local last = math.min(s.last, position)
    if s.first < last then
      list[#list + 1] = {id = s.id, first = s.first, last = last, shared = s.shared}
    end
  end
  return list
end

local function tokens(r, from, to)
  local parts = {}
  for _, s in ipairs(segments(r)) do
    local a, b = math.max(from, s.first), math.min(to, s.last)
    if a < b then
      parts[#parts + 1] = redis.call('GETRANGE', key('log', s.id),
        (a - s.first) * r.width, (b - s.first) * r.width - 1)
    end
  end
  return table.concat(parts)
end

-- Return the retained snapshots of a segment.
local function marks(s, distance)
  local list = {}
  for k = math.floor(s.first / distance), math.floor(s.last / distance) do
    local name = key('mark', s.id .. ':' .. k)
    local position = tonumber(string.match(redis.call('GETRANGE', name, 0, 19), '^%d+'))
    if position then list[#list + 1] = {name = name, k = k, position = position} end
  end
  return list
end

-- Copy a long chain, with its retained snapshots, into one segment. This is rarely needed.
local function flat(r, list, position, id, distance)
  if #list <= MOST_SEGMENTS then return list end
  redis.call('SET', key('log', id), tokens(r, 0, position), 'EX', r.ttl)
  for _, s in ipairs(list) do
    for _, mark in ipairs(marks(s, distance)) do
      if mark.position <= s.last then
        redis.call('COPY', mark.name, key('mark', id .. ':' .. mark.k))
      end
    end
  end
  return {{id = id, first = 0, last = position, shared = false}}
end

-- Delete segments and snapshots that no other session shares and that the new chain lacks.
local function drop_all_but(r, list, distance)
  local kept = {}
  for _, s in ipairs(list) do kept[s.id] = s.last end
  for _, s in ipairs(segments(r)) do
    if not s.shared then
      if not kept[s.id] then redis.call('DEL', key('log', s.id)) end
      for _, mark in ipairs(marks(s, distance)) do
        if mark.position > (kept[s.id] or s.first) then redis.call('DEL', mark.name) end
      end
    end
  end
end

local function request_of(r)
  return key('request', string.sub(r.name, #key('session', '') + 1))
end

local function keep(name, ttl)
  if redis.call('EXPIRE', name, ttl, 'GT') == 0 then redis.call('EXPIRE', name, ttl, 'NX') end
end

-- Refresh the expiry of a session and of all that it uses; shared keys keep the longest expiry.
-- New keys get the full time when they are set. Before a sixteenth of the time has passed it writes
-- nothing, so that frequent reads cause no writes.
local function touch(r)
  if redis.call('PTTL', r.name) * 16 > r.ttl * 15000 then return end
  redis.call('EXPIRE', r.name, r.ttl)
  redis.call('EXPIRE', request_of(r), r.ttl)
  for _, s in ipairs(segments(r)) do keep(key('log', s.id), r.ttl) end
  if r.snapshot ~= '' then keep(key('state', r.snapshot), r.ttl) end
end

-- Append to the log; return the length of its tail in tokens.
local function append(r, added)
  local log = key('log', r.tail)
  local length = redis.call('APPEND', log, added)
  if length == #added then keep(log, r.ttl) end -- a new key
  return length / r.width
end

local function is_alive(holder)
  return holder ~= '' and redis.call('EXISTS', key('process', holder)) == 1
end

-- The holder of a turn is alive, even if the store has lost its last heartbeat.
local function give_life(holder, life_ms)
  redis.call('SET', key('process', holder), '1', 'PX', life_ms, 'NX')
end

local function snapshot_position(r)
  return tonumber(string.match(r.snapshot, ':(%d+)$') or 0)
end

local function finish(r, status)
  redis.call('HSET', r.name, 'active', '', 'holder', '')
  if r.active == 'turn' then
    redis.call('HSET', r.name, 'status', status, 'finish', r.position)
    local first = r.request_key ~= '' and tonumber(redis.call('HGET', r.request_key, 'first'))
    if first then
      redis.call('HSET', r.request_key, 'status', status, 'finish', r.position,
        'sum', redis.sha1hex(tokens(r, first, r.position)))
    end
    r.status, r.finish = status, r.position
  end
  r.active, r.holder = '', ''
end

-- The fencing token of a cancelled turn: its writer is fenced off, and not by another writer.
local function cancelled(nonce) return 'cancelled:' .. nonce end

local function drop_snapshot(r)
  if r.snapshot ~= '' and r.state_shared ~= '1' then redis.call('DEL', key('state', r.snapshot)) end
end

local function as_list(r)
  local list = {}
  for field, value in pairs(r) do
    if field ~= 'name' then
      list[#list + 1] = field
      list[#list + 1] = tostring(value)
    end
  end
  list[#list + 1] = 'left_ms'
  list[#list + 1] = tostring(redis.call('PTTL', r.name))
  return list
end
