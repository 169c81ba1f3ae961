-- Take over the turn of a process that is not alive. KEYS: record. ARGV: fencing token, record
-- version, holder, penalty window, life of a process in ms.
-- → RESUMED record, turn record, snapshot, first position of the tokens, tokens
--   | NOT_FOUND | IDLE | BUSY | DAMAGED positions of the frame whose checksum differs
local nonce, stamp, holder, window = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if IS_CLUSTER then
  want_session(r)
  local reply = lacks(r.holder, ARGV[6])
  if reply then return reply end
end
local request = redis.call('GET', request_of(r))
if r.nonce ~= nonce then
  if r.active ~= 'turn' then return {'IDLE'} end
  if is_alive(r.holder) then return {'BUSY'} end
  if not request then -- the store has lost the turn record
    finish(r, 'cancelled')
    return {'IDLE'}
  end
end
local from = math.max(0, math.min(snapshot_position(r), r.position - window))
local tail, first, last = tokens(r, from, r.position)
if not tail then
  finish(r, 'lost') -- nobody can continue it
  return {'DAMAGED', first, last}
end
if r.nonce ~= nonce then
  r.holder, r.nonce, r.stamp = holder, nonce, stamp
  redis.call('HSET', KEYS[1], 'holder', holder, 'nonce', nonce, 'stamp', stamp)
  touch(r)
  give_life(holder, ARGV[5])
  local sums = key('sums', r.tail) -- the process before may be of an earlier version
  local frame = unsummed(sums, r.position - r.base)
  if frame ~= '' then extend(sums, frame, r.ttl) end
end
local state = r.snapshot ~= '' and redis.call('GET', key('state', r.snapshot)) or ''
return {'RESUMED', as_list(r), request or '', state or '', from, tail}
