-- Take over the turn of a process that is not alive. KEYS: record. ARGV: fencing token, record
-- version, holder, penalty window, life of a process in ms.
-- → RESUMED record, turn record, snapshot, first position of the tokens, tokens
--   | NOT_FOUND | IDLE | BUSY
local nonce, stamp, holder, window = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
local request = redis.call('GET', request_of(r))
if r.nonce ~= nonce then
  if r.active ~= 'turn' then return {'IDLE'} end
  if is_alive(r.holder) then return {'BUSY'} end
  if not request then -- the store has lost the turn record
    finish(r, 'cancelled')
    return {'IDLE'}
  end
  r.holder, r.nonce, r.stamp = holder, nonce, stamp
  redis.call('HSET', KEYS[1], 'holder', holder, 'nonce', nonce, 'stamp', stamp)
  touch(r)
  give_life(holder, ARGV[5])
end
local state = r.snapshot ~= '' and redis.call('GET', key('state', r.snapshot)) or ''
local from = math.max(0, math.min(snapshot_position(r), r.position - window))
return {'RESUMED', as_list(r), request or '', state or '', from, tokens(r, from, r.position)}
