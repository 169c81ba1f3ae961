-- Fork a session. KEYS: parent, children. ARGV: incarnation, record version, position or '',
-- 'derive' or 'same', distance of retained snapshots, the owner's sessions at most or 0, a segment
-- name per child and two more.
-- → FORKED records of the children | NOT_FOUND | POSITION position | LIMIT
local birth, stamp, at, seeds = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local distance = tonumber(ARGV[5])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
at = at or r.position
if at > r.position then return {'POSITION', r.position} end
local children = #ARGV - 8
if IS_CLUSTER then
  want_session(r, distance)
  want_segment(ARGV[#ARGV - 1])
  want_flat(before(r, r.position), r.position, ARGV[#ARGV], distance)
  for i = 1, children do
    local child = load(KEYS[1 + i])
    if child then want_session(child) end
    want(request_of({name = KEYS[1 + i]}))
    want_segment(ARGV[6 + i])
  end
  local reply = lacks()
  if reply then return reply end
end
if redis.call('HGET', KEYS[2], 'birth') ~= birth then
  if not has_room(KEYS[1], children, tonumber(ARGV[6])) then return {'LIMIT'} end
  local whole = before(r, r.position)
  local short = flat(r, whole, r.position, ARGV[#ARGV], distance)
  if short ~= whole then -- shorten the parent's too, so that the next fork copies nothing
    drop_all_but(r, short, distance)
    r.chain, r.tail, r.base, r.shared = chain_of(short), ARGV[#ARGV - 1], r.position, '0'
    redis.call('HSET', KEYS[1], 'tail', r.tail, 'base', r.base)
  end
  local list, own = before(r, at), before(r, r.base)
  for _, s in ipairs(list) do s.shared = true end
  for _, s in ipairs(own) do s.shared = true end
  local is_shared = r.shared == '1' or r.base < at
  redis.call('HSET', KEYS[1], 'chain', chain_of(own), 'shared', is_shared and '1' or '0')
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
      'seed', seed, 'epoch', 0, 'turn', 0, 'turn_epoch', 0, 'start', 0, 'first', 0, 'finish', 0,
      'status', 'none', 'position', at, 'stamp', stamp, 'run', r.run, 'tail', ARGV[6 + i],
      'base', at, 'chain', chain_of(list), 'shared', '0', 'snapshot', snapshot,
      'state_shared', '1', 'active', '', 'holder', '', 'birth', birth, 'nonce', '',
      'request_key', '', 'ttl', r.ttl, 'created', now[1], 'forks', 0)
    if r.steer then redis.call('HSET', KEYS[1 + i], 'steer', r.steer) end
  end
  touch(r)
end
local replies = {}
for i = 1, children do
  local child = load(KEYS[1 + i])
  touch(child)
  enter(child, now_ms())
  replies[i] = as_list(child)
end
return {'FORKED', unpack(replies)}
