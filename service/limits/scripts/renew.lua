-- Renew the leases of requests that still run. KEYS: leases. ARGV: lease in ms, requests.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[i]) end
return {#ARGV - 1}
