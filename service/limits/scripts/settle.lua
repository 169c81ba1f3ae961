-- End a request's lease and give back what it has not used; a negative amount is used beyond it.
--
-- KEYS: buckets, leases, reserved. ARGV: request, then for each bucket: name, amount.
-- Repeated, or after the lease's end, it changes nothing.

if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return {0} end
redis.call('HDEL', KEYS[3], ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end
return {1}
