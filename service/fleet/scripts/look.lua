-- Report this process, forget those whose reports are too old, and return the wish.
-- KEYS: revision, wanted models, aliases, reports, times of the reports.
-- ARGV: the process, its report ('': none), the lifetime of a report in ms, the 'revision token'
-- that the caller knows ('': none), '1' for the reports of all processes.
-- Replies: revision and token (or false), models, aliases, reports. The wish is left out where the
-- caller knows it, and the reports where they are not asked for: each process looks all the time.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[5], now_ms, ARGV[1])
end
local gone = redis.call('ZRANGE', KEYS[5], '-inf', now_ms - ARGV[3], 'BYSCORE', 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('HDEL', KEYS[4], unpack(gone))
  redis.call('ZREM', KEYS[5], unpack(gone))
end
local current = redis.call('GET', KEYS[1])
local is_known = current == ARGV[4]
return {
  current,
  is_known and {} or redis.call('HGETALL', KEYS[2]),
  is_known and {} or redis.call('HGETALL', KEYS[3]),
  ARGV[5] == '1' and redis.call('HVALS', KEYS[4]) or {},
}
