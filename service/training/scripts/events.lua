-- List the events of a job after one, and its progress, at one moment: ids are of one order.
-- KEYS: events, progress. ARGV: the id before, how many of each at most.
local function after(stream)
  return redis.call('XRANGE', stream, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
return {after(KEYS[1]), after(KEYS[2])}
