-- Begin a turn or an append. KEYS: record, idempotency record. ARGV: as in Store.begin.
-- → BEGUN record, snapshot, first position of the tokens, tokens
--   | KNOWN epoch, turn, position: the caller has the rest cached
--   | NOT_FOUND | CHANGED | KEY_REUSED | ATTACH idempotency record, record, whether the holder is
--     alive, tokens | BUSY fencing token if the caller is the holder | POSITION position
--   | MOVED position: the prompt was made for another one | EMPTY | LOST
--   | SPANS: no further steered turn fits
--   | DAMAGED positions of the frame whose checksum differs
local nonce, stamp, holder, run, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local birth, expected, prompt, request = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local known, window, fingerprint, key_ttl = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local life_ms, made_for = ARGV[14], ARGV[15]
local steering, steered_at, most_spans = ARGV[16] or '', ARGV[17], tonumber(ARGV[18])
local most_bytes = tonumber(ARGV[19])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if r.birth ~= birth then return {'CHANGED'} end -- deleted and created again
if IS_CLUSTER then
  want_session(r)
  local reply = lacks(r.holder, ARGV[20])
  if reply then return reply end
end

local function begun(before) -- `before`: the log's length without the prompt
  local from = math.max(0, math.min(snapshot_position(r), before - window))
  local tail, first, last = tokens(r, from, r.position)
  if not tail then return {'DAMAGED', first, last} end
  local state = r.snapshot ~= '' and redis.call('GET', key('state', r.snapshot)) or ''
  return {'BEGUN', as_list(r), state or '', from, tail}
end

if r.nonce == nonce then return begun(r.position - #prompt / r.width) end -- its reply was lost
if fingerprint ~= '' then
  local earlier = fields_of(KEYS[2])
  if earlier and earlier.birth == birth then -- otherwise of an earlier session with this id
    if earlier.fingerprint ~= fingerprint then return {'KEY_REUSED'} end
    local first, finish, completion = tonumber(earlier.first), tonumber(earlier.finish), ''
    if earlier.kind == 'turn' then
      local from, to
      completion, from, to = tokens(r, first, finish or r.position)
      if not completion then return {'DAMAGED', from, to} end
      local is_whole = not finish or finish <= r.position
        and redis.sha1hex(completion .. cut_spans(r, finish)) == earlier.sum
      if not is_whole then earlier.status, completion = 'rewound', '' end
    end
    earlier.name = KEYS[2]
    return {'ATTACH', as_list(earlier), as_list(r), is_alive(r.holder) and 1 or 0, completion}
  end
end
if r.active ~= '' and is_alive(r.holder) then
  return {'BUSY', r.holder == holder and r.nonce or ''}
end
local log = key('log', r.tail)
if redis.call('STRLEN', log) ~= (r.position - r.base) * r.width then return {'LOST'} end
if expected ~= '' and tonumber(expected) ~= r.position then return {'POSITION', r.position} end
if made_for ~= '' and tonumber(made_for) ~= math.min(r.position, 2) then
  return {'MOVED', r.position}
end
if steering ~= '' and tonumber(steered_at) ~= r.position then return {'MOVED', r.position} end
if #prompt == 0 and r.position == 0 then return {'EMPTY'} end
local lines = cut_spans(r, r.position)
if steering ~= '' then
  local _, count = string.gsub(lines, '\n', '')
  if count >= most_spans or #lines + #steering > most_bytes then return {'SPANS'} end
end
local is_known = known ~= '' and known == r.stamp
local reply = not is_known and begun(r.position)
if reply and reply[1] == 'DAMAGED' then return reply end
if r.active ~= '' then finish(r, 'cancelled') end -- the turn ends at its committed tokens

if steering ~= '' then
  lines = string.format('%s%d  %s\n', lines, math.max(0, r.position - 1), steering)
  if string.sub(r.digest, 1, 8) ~= 'steered-' then
    -- A server of an earlier version, which knows no steering, refuses the session: it finds another
    -- digest, and if it has the session cached, another birth.
    r.born, r.digest = r.birth, 'steered-' .. r.digest
    redis.call('HSET', KEYS[1], 'birth', nonce, 'born', r.born, 'digest', r.digest)
  end
end
if lines ~= (r.steer or '') then
  r.steer = lines
  redis.call('HSET', KEYS[1], 'steer', lines)
end
local n = #prompt / r.width
if r.run ~= run then -- a restarted store may have lost epochs: skip any it had used
  r.epoch = r.epoch + 1 + tonumber(string.sub(run, 1, 4), 16)
end
if kind == 'turn' then
  r.turn = r.turn + 1
  r.turn_epoch, r.start, r.first, r.finish, r.status = r.epoch, r.position, r.position + n, '', ''
  redis.call('SET', request_of(r), request, 'EX', r.ttl)
end
if n > 0 then
  append_prompt(r, prompt)
else -- the turn before may be of an earlier version
  local sums = key('sums', r.tail)
  local frame = unsummed(sums, r.position - r.base)
  if frame ~= '' then extend(sums, frame, r.ttl) end
end
r.position = r.position + n
r.active, r.holder, r.nonce, r.stamp, r.run = kind, holder, nonce, stamp, run
r.request_key = fingerprint ~= '' and KEYS[2] or ''
redis.call('HSET', KEYS[1], 'turn', r.turn, 'epoch', r.epoch, 'turn_epoch', r.turn_epoch,
  'start', r.start, 'first', r.first, 'finish', r.finish, 'status', r.status,
  'position', r.position, 'active', r.active, 'holder', r.holder,
  'nonce', nonce, 'stamp', stamp, 'run', run, 'request_key', r.request_key)
if fingerprint ~= '' then
  redis.call('HSET', KEYS[2], 'fingerprint', fingerprint, 'birth', birth, 'turn', r.turn,
    'kind', kind, 'turn_epoch', r.turn_epoch, 'start', r.start, 'first', r.first, 'finish', '',
    'status', '', 'position', r.position, 'request', request)
  redis.call('EXPIRE', KEYS[2], key_ttl)
end
touch(r)
enter(r, r.created * 1000) -- one of an earlier version is not there
give_life(holder, life_ms)
if is_known then return {'KNOWN', r.epoch, r.turn, r.position} end
return {'BEGUN', as_list(r), reply[3], reply[4], reply[5] .. prompt}
