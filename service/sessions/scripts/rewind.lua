-- Truncate a log. KEYS: record. ARGV: fencing token, record version, position, names of two new
-- segments, distance of retained snapshots.
-- → REWOUND record | NOT_FOUND | BUSY | POSITION position
local nonce, stamp, to, distance = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[6])
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if r.nonce == nonce then return {'REWOUND', as_list(r)} end
if IS_CLUSTER then
  want_session(r, distance)
  want_segment(ARGV[4])
  want_flat(before(r, to), to, ARGV[5], distance)
  local reply = lacks(r.holder, ARGV[7])
  if reply then return reply end
end
if r.active ~= '' and is_alive(r.holder) then return {'BUSY'} end
if to > r.position then return {'POSITION', r.position} end
if r.active ~= '' then finish(r, 'cancelled') end
local list = flat(r, before(r, to), to, ARGV[5], distance)
drop_all_but(r, list, distance)
if snapshot_position(r) >= to then
  drop_snapshot(r)
  r.snapshot, r.state_shared = '', '0'
end
if r.finish ~= '' and tonumber(r.finish) > to then r.status = 'rewound' end
r.position, r.base, r.tail, r.chain, r.shared = to, to, ARGV[4], chain_of(list), '0'
r.epoch, r.nonce, r.stamp = r.epoch + 1, nonce, stamp
redis.call('HSET', KEYS[1], 'position', to, 'base', to, 'tail', r.tail, 'chain', r.chain,
  'shared', '0', 'snapshot', r.snapshot, 'state_shared', r.state_shared, 'status', r.status,
  'epoch', r.epoch, 'nonce', nonce, 'stamp', stamp)
touch(r)
return {'REWOUND', as_list(r)}
