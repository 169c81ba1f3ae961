-- One change of a train job, under its fence, with what is told of it.
-- KEYS: job, lease, events, set of open jobs. ARGV: attempt or '', statuses that allow it,
-- lease in ms ('' leaves it, '0' ends it, 'gone' demands that there is none), 1 if the job is over,
-- event's name or '', its JSON, then fields and values.
-- → OK | GONE | FENCED | STATUS status
local attempt, allowed, lease, is_over, name, data = unpack(ARGV, 1, 6)
local was = redis.call('HMGET', KEYS[1], 'attempt', 'status')
if not was[1] then return {'GONE'} end
if attempt ~= '' and attempt ~= was[1] then return {'FENCED'} end
if not string.find(',' .. allowed .. ',', ',' .. was[2] .. ',', 1, true) then
  return {'STATUS', was[2]}
end
if lease == 'gone' then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {'FENCED'} end
elseif lease == '0' then
  redis.call('DEL', KEYS[2])
elseif lease ~= '' then
  redis.call('SET', KEYS[2], was[1], 'PX', lease)
end
if #ARGV > 6 then redis.call('HSET', KEYS[1], unpack(ARGV, 7)) end
if name ~= "" then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'name', name, 'data', data)
end
if is_over == '1' then
  redis.call('SREM', KEYS[4], KEYS[1])
  redis.call('EXPIRE', KEYS[1], 7776000)
  redis.call('EXPIRE', KEYS[3], 604800)
end
return {'OK'}
