-- Reserve what a request may use, all or nothing.
--
-- KEYS: buckets (hash: level and time of each), leases (sorted set: request by end of its lease),
--       reserved (hash: what each request has reserved).
-- ARGV: request, lease in ms, requests at once or 0, then for each bucket: name, capacity,
--       period in ms, cost, whether what is not used comes back (1 or 0).
-- Returns 1 or 0, the name of the limit that refuses, the ms until it would not, and the level of
-- each bucket. A call that is repeated after its reply was lost reserves nothing more.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local buckets, leases, reserved = KEYS[1], KEYS[2], KEYS[3]
local longest = 86400000

-- A process that died gives back what its requests had reserved, when their leases end.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)) do
  for name, amount in string.gmatch(redis.call('HGET', reserved, id) or '', '([%w_]+)=(%d+)') do
    redis.call('HINCRBYFLOAT', buckets, name, amount)
  end
  redis.call('HDEL', reserved, id)
  redis.call('ZREM', leases, id)
end

local is_repeated = redis.call('ZSCORE', leases, ARGV[1])
local refused, wait, levels, held, changes = '', 0, {}, {}, {}
for i = 4, #ARGV, 5 do
  local name, capacity, period = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local cost = is_repeated and 0 or tonumber(ARGV[i + 3])
  local level = tonumber(redis.call('HGET', buckets, name) or capacity)
  local at = tonumber(redis.call('HGET', buckets, name .. ':at') or now)
  level = math.min(capacity, level + math.max(0, now - at) * capacity / period)
  if level < cost then
    local needed = math.ceil((cost - level) * period / capacity)
    if needed > wait then refused, wait = name, needed end
  end
  levels[#levels + 1] = {level, cost}
  changes[#changes + 1] = name
  changes[#changes + 1] = string.format('%.6f', level - cost)
  changes[#changes + 1] = name .. ':at'
  changes[#changes + 1] = now
  if ARGV[i + 4] == '1' then held[#held + 1] = name .. '=' .. ARGV[i + 3] end
  longest = math.max(longest, period)
end

local at_once = tonumber(ARGV[3])
if refused == '' and at_once > 0 and not is_repeated
    and redis.call('ZCARD', leases) >= at_once then
  refused, wait = 'concurrent_requests', 0
end

local reply = {refused == '' and 1 or 0, refused, wait}
for _, one in ipairs(levels) do
  reply[#reply + 1] = string.format('%.3f', refused == '' and one[1] - one[2] or one[1])
end
if refused ~= '' then return reply end
if #changes > 0 then redis.call('HSET', buckets, unpack(changes)) end
redis.call('ZADD', leases, now + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', reserved, ARGV[1], table.concat(held, ' '))
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, longest) end
return reply
