-- KEYS: record, turn, idempotency record. ARGV: see Store.begin.
-- → BEGUN record, snapshot, first position of the tokens, tokens
--   | KNOWN epoch, turn, fence, position: the caller knows the rest
--   | NOT_FOUND | KEY_REUSED | ATTACH request record, record | MODEL digest | BUSY
--   | POSITION position | EMPTY | LOST
local nonce, stamp, holder, run, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local digest, expected, prompt, request = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local known, window, fingerprint, key_ttl = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local life_ms = ARGV[14]
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end

local function begun()
  local state = r.snapshot ~= '' and redis.call('GET', key('state', r.snapshot)) or ''
  local from = math.max(0, math.min(snapshot_position(r), r.position - #prompt / r.width - window))
  return {'BEGUN', as_list(r), state or '', from, tokens(r, from, r.position)}
end

if r.nonce == nonce then return begun() end -- our own, whose reply was lost
if fingerprint ~= '' then
  local earlier = fields_of(KEYS[3])
  if earlier and earlier.fingerprint ~= fingerprint then return {'KEY_REUSED'} end
  if earlier then
    earlier.name = KEYS[3]
    local is_whole = earlier.finish == ''
    for _, s in ipairs(segments(r)) do
      is_whole = is_whole or (s.id == earlier.tail and s.last >= tonumber(earlier.finish))
    end
    if not is_whole then earlier.status = 'rewound' end
    return {'ATTACH', as_list(earlier), as_list(r)}
  end
end
if r.digest ~= digest then return {'MODEL', r.digest} end
if r.active ~= '' then
  if is_alive(r.holder) then return {'BUSY'} end
  finish(r, 'cancelled') -- its process is gone: what it had committed is the turn
end
local log = key('log', r.tail)
if redis.call('STRLEN', log) ~= (r.position - r.base) * r.width then return {'LOST'} end
if expected ~= '' and tonumber(expected) ~= r.position then return {'POSITION', r.position} end
if #prompt == 0 and r.position == 0 then return {'EMPTY'} end

local is_known = known ~= '' and known == r.stamp
local n = #prompt / r.width
if r.run ~= run then r.epoch = r.epoch + 1 end -- a restarted store may have lost its last second
if kind == 'turn' then
  r.turn = r.turn + 1
  r.turn_epoch, r.start, r.first, r.finish, r.status = r.epoch, r.position, r.position + n, '', ''
  redis.call('SET', KEYS[2], request, 'EX', r.ttl)
end
if n > 0 then redis.call('APPEND', log, prompt) end
r.position, r.fence = r.position + n, r.fence + 1
r.active, r.holder, r.nonce, r.stamp, r.run = kind, holder, nonce, stamp, run
r.request_key = fingerprint ~= '' and KEYS[3] or ''
redis.call('HSET', KEYS[1], 'turn', r.turn, 'epoch', r.epoch, 'turn_epoch', r.turn_epoch,
  'start', r.start, 'first', r.first, 'finish', r.finish, 'status', r.status,
  'position', r.position, 'fence', r.fence, 'active', r.active, 'holder', r.holder,
  'nonce', nonce, 'stamp', stamp, 'run', run, 'request_key', r.request_key)
if fingerprint ~= '' then
  redis.call('HSET', KEYS[3], 'fingerprint', fingerprint, 'turn', r.turn, 'kind', kind,
    'turn_epoch', r.turn_epoch, 'start', r.start, 'first', r.first, 'finish', '', 'status', '',
    'tail', r.tail, 'position', r.position, 'request', request)
  redis.call('EXPIRE', KEYS[3], key_ttl)
end
touch(r, KEYS[2])
give_life(holder, life_ms)
return is_known and {'KNOWN', r.epoch, r.turn, r.fence, r.position} or begun()
