-- Create a session. KEYS: record. ARGV: incarnation, ttl, tokens, state or '', the owner's sessions
-- at most or 0, then the record's fields and values.
-- → CREATED record | EXISTS | LIMIT
local birth, ttl, log = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local r = load(KEYS[1])
if r and r.birth ~= birth then return {'EXISTS'} end
if not r then
  if not has_room(KEYS[1], 1, tonumber(ARGV[5])) then return {'LIMIT'} end
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'birth', birth, 'ttl', ttl, 'created', now[1], unpack(ARGV, 6))
  r = load(KEYS[1])
  if #log > 0 then
    redis.call('SET', key('log', r.tail), log, 'EX', ttl)
    redis.call('SET', key('sums', r.tail), frames_of(log, r.width, 0), 'EX', ttl)
  end
  if ARGV[4] ~= '' then redis.call('SET', key('state', r.snapshot), ARGV[4], 'EX', ttl) end
  touch(r)
  enter(r, now_ms())
end
return {'CREATED', as_list(r)}
