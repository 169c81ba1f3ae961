-- What every script begins with.
-- KEYS, as `JobQueue._keys` lists them: job, lease, events, progress, set of open jobs.

local LASTING, PASSING = 10000, 3600 -- events kept, about; an hour of progress

-- Two streams, so that progress by the second pushes nothing else out; their ids are of one order.
local function tell(name, data)
  local now, last = redis.call('TIME'), redis.call('HGET', KEYS[1], 'told') or '0-0'
  local ms, n = now[1] * 1000 + math.floor(now[2] / 1000), 0
  local last_ms, last_n = string.match(last, '(%d+)-(%d+)')
  if tonumber(last_ms) >= ms then ms, n = tonumber(last_ms), last_n + 1 end
  local id = string.format('%.0f-%d', ms, n)
  local stream, most = KEYS[3], LASTING
  if name == 'progress' then stream, most = KEYS[4], PASSING end
  redis.call('XADD', stream, 'MAXLEN', '~', most, id, 'name', name, 'data', data)
  redis.call('HSET', KEYS[1], 'told', id)
end

local function close()
  redis.call('SREM', KEYS[5], KEYS[1])
  redis.call('EXPIRE', KEYS[1], 7776000)
  redis.call('EXPIRE', KEYS[3], 604800)
  redis.call('EXPIRE', KEYS[4], 604800)
end

-- The end of a job that nobody runs.
local function end_cancelled()
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'status', 'cancelled',
    'ended', string.format('%d.%03d', now[1], math.floor(now[2] / 1000)))
  tell('done', '{"status": "cancelled", "model": null}')
  close()
end
