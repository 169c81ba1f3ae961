-- End a turn at its committed tokens. KEYS: record. ARGV: epoch and number of the turn,
-- record version.
-- → FOUND record | NOT_FOUND
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if IS_CLUSTER then
  want_session(r)
  local reply = lacks()
  if reply then return reply end
end
if r.active == 'turn' and r.turn_epoch == ARGV[1] and r.turn == tonumber(ARGV[2]) then
  finish(r, 'cancelled')
  r.nonce, r.stamp = cancelled(r.nonce), ARGV[3]
  redis.call('HSET', KEYS[1], 'nonce', r.nonce, 'stamp', r.stamp)
end
touch(r)
return {'FOUND', as_list(r)}
