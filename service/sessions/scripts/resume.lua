-- Take over the turn of a process that is gone. KEYS: record, turn. ARGV: nonce, stamp, holder,
-- window, life of a process in ms.
-- → RESUMED record, request, snapshot, first position of the tokens, tokens
--   | NOT_FOUND | IDLE | BUSY
local nonce, stamp, holder, window = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if r.nonce ~= nonce then
  if r.active ~= 'turn' then return {'IDLE'} end
  if is_alive(r.holder) then return {'BUSY'} end
  r.fence, r.holder, r.nonce, r.stamp = r.fence + 1, holder, nonce, stamp
  redis.call('HSET', KEYS[1], 'fence', r.fence, 'holder', holder, 'nonce', nonce, 'stamp', stamp)
  touch(r, KEYS[2])
  give_life(holder, ARGV[5])
end
local state = r.snapshot ~= '' and redis.call('GET', key('state', r.snapshot)) or ''
local from = math.max(0, math.min(snapshot_position(r), r.position - window))
return {'RESUMED', as_list(r), redis.call('GET', KEYS[2]) or '', state or '', from,
  tokens(r, from, r.position)}
