-- The common part of every script. `docs/reference/store.md` lists the keys, and the fields whose
-- names differ from those in the code. Positions count tokens; a segment's bytes are its tokens,
-- `width` bytes each, little endian.

-- On a cluster all keys of a call have one hash tag, `{owner/group}`, after the first part of their
-- names; the index of an owner's sessions and the keys of processes are in other slots there.
local TAGGED = string.match(KEYS[1] or '', '^carousel:{.-}:')
local PREFIX = TAGGED or 'carousel:'
local IS_CLUSTER = TAGGED ~= nil
local MOST_SEGMENTS = 12

local function key(kind, name) return PREFIX .. kind .. ':' .. name end

-- Return the rank of what follows a member in an index, the newest first, also where that has been
-- deleted since; 0 where `after` is ''.
local function rank_after(index, time, after)
  if after == '' then return 0 end
  local probe = after .. '\0'
  redis.call('ZADD', index, time, probe)
  local rank = redis.call('ZREVRANK', index, probe)
  redis.call('ZREM', index, probe)
  return rank
end

local function fields_of(name)
  local flat, record = redis.call('HGETALL', name), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return #flat > 0 and record or nil
end

-- Read a session's record, with its numbers converted, or return nil.
local function load(name)
  local r = fields_of(name)
  if r then
    r.name, r.birth = name, r.born or r.birth
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

-- Return the tokens of a range as they are stored, unchecked.
local function raw_tokens(r, from, to)
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

-- A frame is a part of a segment with a checksum: its end in the segment (u32) and the first
-- characters of the SHA-1 of its tokens, or NO_SUM. Its begin is the end of the frame before.
local FRAME_BYTES, FRAME_TOKENS, NO_SUM = 12, 256, '--------'

local function sum_of(packed) return string.sub(redis.sha1hex(packed), 1, #NO_SUM) end

-- Return the frames of tokens that follow `first` tokens of a segment.
local function frames_of(packed, width, first)
  local parts, n = {}, #packed / width
  for a = 0, n - 1, FRAME_TOKENS do
    local b = math.min(a + FRAME_TOKENS, n)
    parts[#parts + 1] = struct.pack('<I4', first + b) ..
      sum_of(string.sub(packed, a * width + 1, b * width))
  end
  return table.concat(parts)
end

local function frame_end(sums, i)
  return (struct.unpack('<I4', redis.call('GETRANGE', sums, i * FRAME_BYTES, i * FRAME_BYTES + 3)))
end

-- Return the tokens [a, b) of a segment, or nil and the limits of a frame whose checksum differs.
local function checked_part(id, a, b, width)
  local log, sums = key('log', id), key('sums', id)
  local n = math.floor(redis.call('STRLEN', sums) / FRAME_BYTES)
  local low, high = 0, n -- find the first frame that ends after `a`
  while low < high do
    local middle = math.floor((low + high) / 2)
    if frame_end(sums, middle) > a then high = middle else low = middle + 1 end
  end
  local start = a -- of tokens after all frames: an earlier version has written them
  if low < n then start = low > 0 and frame_end(sums, low - 1) or 0 end
  local list = redis.call('GETRANGE', sums, low * FRAME_BYTES,
    math.min(n, low + b - a + 1) * FRAME_BYTES - 1)
  local limits, stop = {}, start
  for at = 1, low < n and #list or 0, FRAME_BYTES do
    if stop >= b then break end
    local last, sum = struct.unpack('<I4c8', string.sub(list, at, at + FRAME_BYTES - 1))
    limits[#limits + 1] = {stop, last, sum}
    stop = last
  end
  local part = redis.call('GETRANGE', log, start * width, math.max(stop, b) * width - 1)
  for _, frame in ipairs(limits) do
    local first, last, sum = unpack(frame)
    local packed = string.sub(part, (first - start) * width + 1, (last - start) * width)
    if sum ~= NO_SUM and sum ~= sum_of(packed) then return nil, first, last end
  end
  return string.sub(part, (a - start) * width + 1, (b - start) * width)
end

-- Return the tokens of a range, or nil and the positions of a frame whose checksum differs.
local function tokens(r, from, to)
  local parts = {}
  for _, s in ipairs(segments(r)) do
    local a, b = math.max(from, s.first), math.min(to, s.last)
    if a < b then
      local part, first, last = checked_part(s.id, a - s.first, b - s.first, r.width)
      if not part then return nil, s.first + first, s.first + last end
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts)
end

-- Return the retained snapshots of a segment. One at the end of a segment has read its last token,
-- which is read in another way where the sessions that share the segment are steered differently: it
-- is neither written nor used. An earlier version may have left one.
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
  local whole = tokens(r, 0, position)
  if not whole then return list end -- a copy would have new checksums: damage stays visible
  redis.call('SET', key('log', id), whole, 'EX', r.ttl)
  redis.call('SET', key('sums', id), frames_of(whole, r.width, 0), 'EX', r.ttl)
  for _, s in ipairs(list) do
    for _, mark in ipairs(marks(s, distance)) do
      if mark.position < s.last then
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
      if not kept[s.id] then redis.call('DEL', key('log', s.id), key('sums', s.id)) end
      for _, mark in ipairs(marks(s, distance)) do
        if mark.position >= (kept[s.id] or s.first) then redis.call('DEL', mark.name) end
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

-- The index of an owner's sessions, by the time of their creation in ms, and a session's id in it.
local function index_of(name)
  local owner, id = string.match(string.sub(name, #key('session', '') + 1), '^(.*)/([^/]*)$')
  return key('sessions', owner), id, key('session', owner) .. '/'
end

-- Enter a session into the index, if it is not there. Sessions expire without a word, so each new
-- one looks after three others: of the index at most a third, about, is of expired ones.
local function enter(r, created_ms)
  if IS_CLUSTER then return end -- session_index.py does it
  local index, id, record = index_of(r.name)
  if redis.call('ZADD', index, 'NX', created_ms, id) == 0 then return end
  keep(index, r.ttl)
  for _, other in ipairs(redis.call('ZRANDMEMBER', index, 3)) do
    if redis.call('EXISTS', record .. other) == 0 then redis.call('ZREM', index, other) end
  end
end

-- Whether an owner may have `n` more sessions beside those in the index; 0 is no limit. Some expired
-- ones leave the index before: looking at all of them would take long at each refusal.
local function has_room(name, n, most)
  if most == 0 or IS_CLUSTER then return true end
  local index, _, record = index_of(name)
  for round = 1, 2 do
    if redis.call('ZCARD', index) + n <= most then return true end
    if round == 2 then return false end
    local oldest, some = redis.call('ZRANGE', index, 0, 199), redis.call('ZRANDMEMBER', index, 200)
    for _, list in ipairs({oldest, some}) do
      for _, other in ipairs(list) do
        if redis.call('EXISTS', record .. other) == 0 then redis.call('ZREM', index, other) end
      end
    end
  end
end

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- Refresh the expiry of a session and of all that it uses; shared keys keep the longest expiry.
-- New keys get the full time when they are set. Before a sixteenth of the time has passed it writes
-- nothing, so that frequent reads cause no writes.
local function touch(r)
  if redis.call('PTTL', r.name) * 16 > r.ttl * 15000 then return end
  redis.call('EXPIRE', r.name, r.ttl)
  if not IS_CLUSTER then keep((index_of(r.name)), r.ttl) end
  redis.call('EXPIRE', request_of(r), r.ttl)
  for _, s in ipairs(segments(r)) do
    keep(key('log', s.id), r.ttl)
    keep(key('sums', s.id), r.ttl)
  end
  if r.snapshot ~= '' then keep(key('state', r.snapshot), r.ttl) end
end

-- Append to a string, a new one with the expiry of the session; return its length.
local function extend(name, added, ttl)
  local length = redis.call('APPEND', name, added)
  if length == #added then keep(name, ttl) end
  return length
end

-- Append to the log; return the length of its tail in tokens.
local function append(r, added) return extend(key('log', r.tail), added, r.ttl) / r.width end

-- Return the frame that makes the frames end where the log's tail does: tokens of a process of an
-- earlier version have no checksum.
local function unsummed(sums, length)
  local n = redis.call('STRLEN', sums) / FRAME_BYTES
  local last = n > 0 and frame_end(sums, n - 1) or 0
  return last < length and struct.pack('<I4', length) .. NO_SUM or ''
end

-- Append a prompt with its checksums.
local function append_prompt(r, prompt)
  local sums, length = key('sums', r.tail), r.position - r.base
  append(r, prompt)
  extend(sums, unsummed(sums, length) .. frames_of(prompt, r.width, length), r.ttl)
end

-- Add the checksum of the tokens up to `length` to the frames of the tail. `sum` is that of the
-- last `n` tokens; with a + before it, of the last frame's tokens and these.
local function add_sum(r, length, n, sum)
  local sums, frame = key('sums', r.tail), struct.pack('<I4', length) .. string.sub(sum, -#NO_SUM)
  if string.sub(sum, 1, 1) == '+' then
    local last = redis.call('STRLEN', sums) - FRAME_BYTES
    if last >= 0 then redis.call('SETRANGE', sums, last, frame) end
  else
    local bytes = extend(sums, frame, r.ttl)
    if bytes == FRAME_BYTES and length > n then -- the first one of a log without checksums
      redis.call('SET', sums, struct.pack('<I4', length - n) .. NO_SUM .. frame, 'KEEPTTL')
    end
  end
end

-- What the caller has found of a process, on a cluster: its name, a colon, and 1 if it is alive.
local stated_life

local function is_alive(holder)
  if IS_CLUSTER then return holder ~= '' and stated_life == holder .. ':1' end
  return holder ~= '' and redis.call('EXISTS', key('process', holder)) == 1
end

-- The holder of a turn is alive, even if the store has lost its last heartbeat.
local function give_life(holder, life_ms)
  if IS_CLUSTER then return end -- the caller does it
  redis.call('SET', key('process', holder), '1', 'PX', life_ms, 'NX')
end

local function snapshot_position(r)
  return tonumber(string.match(r.snapshot, ':(%d+)$') or 0)
end

-- Return the spans of a steered session's text up to `position`, all of them closed: a line for each,
-- of its first step, the step after its last one or nothing, and the steering. The last token of a log
-- has not been read: the step that reads it belongs to what follows. Ends, forks and
-- rewinds leave the lines as they are, those of an earlier version, too: the next begin cuts them.
local function cut_spans(r, position)
  local lines, finish = {}, math.max(0, position - 1)
  for first, last, steering in string.gmatch(r.steer or '', '(%d+) (%d*) ([^\n]*)\n') do
    local to = math.min(tonumber(last) or finish, finish)
    if tonumber(first) < to then
      lines[#lines + 1] = string.format('%s %d %s\n', first, to, steering)
    end
  end
  return table.concat(lines)
end

-- End the turn or append. `changed` are other fields of the record to set, with their values.
local function finish(r, status, changed)
  local parts = changed or {}
  local function set(field, value) parts[#parts + 1], parts[#parts + 2] = field, value end
  set('active', '')
  set('holder', '')
  if r.active == 'turn' then
    set('status', status)
    set('finish', r.position)
  end
  redis.call('HSET', r.name, unpack(parts))
  if r.active == 'turn' then
    local first = r.request_key ~= '' and tonumber(redis.call('HGET', r.request_key, 'first'))
    if first then
      redis.call('HSET', r.request_key, 'status', status, 'finish', r.position,
        'sum', redis.sha1hex(raw_tokens(r, first, r.position) .. cut_spans(r, r.position)))
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

-- A cluster checks that a key is on its node by the KEYS of a call, so there a call has to pass each
-- key that it may touch. A caller that does not know them all is told, before anything is written.
local wanted = {}

local function want(...)
  for _, name in ipairs({...}) do wanted[#wanted + 1] = name end
end

local function want_segment(id) want(key('log', id), key('sums', id)) end

local function want_marks(id, first, last, distance)
  for k = math.floor(first / distance), math.floor(last / distance) do
    want(key('mark', id .. ':' .. k))
  end
end

-- The keys of a session; its retained snapshots, too, if their distance is given.
local function want_session(r, distance)
  want(request_of(r))
  if (r.request_key or '') ~= '' then want(r.request_key) end
  if r.snapshot ~= '' then want(key('state', r.snapshot)) end
  for _, s in ipairs(segments(r)) do
    want_segment(s.id)
    if distance then want_marks(s.id, s.first, s.last, distance) end
  end
end

-- The segment that `flat` makes, if it makes one.
local function want_flat(list, position, id, distance)
  if #list <= MOST_SEGMENTS then return end
  want_segment(id)
  want_marks(id, 0, position, distance)
end

-- Return the reply that asks for what the call lacks, or nil: keys, or whether `holder`, the process
-- that runs the session's turn, is alive.
local function lacks(holder, stated)
  stated_life = stated
  local given = {}
  for _, name in ipairs(KEYS) do given[name] = true end
  local is_complete = true
  for _, name in ipairs(wanted) do is_complete = is_complete and given[name] end
  local asked = holder and holder ~= '' and holder or ''
  if asked ~= '' and string.match(stated or '', '^(.*):[01]$') ~= asked then is_complete = false end
  return not is_complete and {'KEYS', wanted, asked} or nil
end
