-- One change of a train job, under its fence, with what is told of it.
-- ARGV: attempt or '', statuses that allow it, lease in ms ('' leaves it, '0' ends it, 'gone' demands
-- that there is none), the status it leads to or '', 1 if that is the end, event's name or '', its
-- JSON, then fields and values. A job that is to wait again and was cancelled meanwhile ends instead.
-- → OK | CANCELLED | GONE | FENCED | STATUS status
local attempt, allowed, lease, status, is_over, name, data = unpack(ARGV, 1, 7)
local was = redis.call('HMGET', KEYS[1], 'attempt', 'status', 'cancel')
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
if #ARGV > 7 then redis.call('HSET', KEYS[1], unpack(ARGV, 8)) end
if status == 'queued' and was[3] == '1' then
  end_cancelled()
  return {'CANCELLED'}
end
if status ~= '' then redis.call('HSET', KEYS[1], 'status', status) end
if name ~= '' then tell(name, data) end
if is_over == '1' then close() end
return {'OK'}
