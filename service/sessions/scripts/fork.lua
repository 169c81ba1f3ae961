-- KEYS: parent, children. ARGV: nonce, stamp, position or '', 'derive' or 'same', then a segment's
-- name for each child and one more. → FORKED records of the children | NOT_FOUND | POSITION position
local nonce, stamp, at, seeds = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
at = at or r.position
if at > r.position then return {'POSITION', r.position} end
local children = #KEYS - 1
if redis.call('HGET', KEYS[2], 'nonce') ~= nonce then
  local list = flat(r, before(r, at), at, ARGV[4 + children + 1])
  for _, s in ipairs(list) do s.shared = true end
  local own = before(r, r.base)
  for _, s in ipairs(own) do s.shared = true end
  redis.call('HSET', KEYS[1], 'chain', chain_of(own), 'shared', '1')
  local snapshot = ''
  if r.snapshot ~= '' and snapshot_position(r) < at then
    snapshot = r.snapshot
    redis.call('HSET', KEYS[1], 'state_shared', '1')
  end
  local forks = redis.call('HINCRBY', KEYS[1], 'forks', children) - children
  local now = redis.call('TIME')
  for i = 1, children do
    local seed = r.seed
    if seeds == 'derive' then
      seed = string.sub(redis.sha1hex(r.seed .. ':' .. (forks + i)), 1, 16)
    end
    redis.call('HSET', KEYS[1 + i], 'model', r.model, 'digest', r.digest, 'width', r.width,
      'seed', seed, 'epoch', 0, 'turn', 0, 'turn_epoch', 0, 'start', 0, 'first', 0, 'finish', '',
      'status', 'none', 'position', at, 'fence', 0, 'stamp', stamp, 'run', r.run, 'tail', ARGV[4 + i],
      'base', at, 'chain', chain_of(list), 'shared', '0', 'snapshot', snapshot,
      'state_shared', '1', 'active', '', 'holder', '', 'nonce', nonce, 'request_key', '',
      'ttl', r.ttl, 'created', now[1], 'forks', 0)
  end
  touch(r)
end
local replies = {}
for i = 1, children do
  local child = load(KEYS[1 + i])
  touch(child)
  replies[i] = as_list(child)
end
return {'FORKED', unpack(replies)}
