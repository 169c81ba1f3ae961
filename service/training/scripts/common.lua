-- Functions that every script begins with.
-- KEYS, as `JobStore.change` lists them: job, lease, events, progress, set of open jobs, set of jobs
-- whose folders may hold files.

local MAX_EVENTS, MAX_PROGRESS = 10000, 3600 -- about; an hour of progress
local RECORD_TTL_S, EVENTS_TTL_S = 7776000, 604800 -- after the job's end

-- The state and the attempt of the job; false where there is no record. Records of earlier versions
-- have flags where there is a state now (`record_state` in job_store.py does the same).
local function read_state()
  local status, attempt, cancel, published =
    unpack(redis.call('HMGET', KEYS[1], 'status', 'attempt', 'cancel', 'published'))
  if status == 'running' and published == 'true' then return 'published', attempt end
  if (status == 'running' or status == 'queued') and cancel == '1' then
    return 'cancelling', attempt
  end
  return status, attempt
end

-- Append an event. There are two streams, so that progress, which comes each second, trims no other
-- event; their ids are of one order.
local function append_event(name, data)
  local now, last = redis.call('TIME'), redis.call('HGET', KEYS[1], 'told') or '0-0'
  local ms, n = now[1] * 1000 + math.floor(now[2] / 1000), 0
  local last_ms, last_n = string.match(last, '(%d+)-(%d+)')
  if tonumber(last_ms) >= ms then ms, n = tonumber(last_ms), last_n + 1 end
  local id = string.format('%.0f-%d', ms, n)
  local stream, most = KEYS[3], MAX_EVENTS
  if name == 'progress' then stream, most = KEYS[4], MAX_PROGRESS end
  redis.call('XADD', stream, 'MAXLEN', '~', most, id, 'name', name, 'data', data)
  redis.call('HSET', KEYS[1], 'told', id)
end

-- How many of the owner's jobs are in the set of open jobs. Ids are all of one length, because the
-- name of another owner may begin with this one's.
local function count_open(set)
  local owner, n = string.match(KEYS[1], '^.*/'), 0
  for _, name in ipairs(redis.call('SMEMBERS', set)) do
    if #name == #KEYS[1] and string.sub(name, 1, #owner) == owner then n = n + 1 end
  end
  return n
end

-- Let a job that is over expire.
local function close()
  redis.call('SREM', KEYS[5], KEYS[1])
  redis.call('SADD', KEYS[6], KEYS[1])
  redis.call('EXPIRE', KEYS[1], RECORD_TTL_S)
  redis.call('EXPIRE', KEYS[3], EVENTS_TTL_S)
  redis.call('EXPIRE', KEYS[4], EVENTS_TTL_S)
end

-- Undo `close`.
local function reopen()
  redis.call('SADD', KEYS[5], KEYS[1])
  for _, i in ipairs({1, 3, 4}) do redis.call('PERSIST', KEYS[i]) end
end
