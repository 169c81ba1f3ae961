-- Forget the report of a process that ends. KEYS: reports, times of the reports. ARGV: the process.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return {1}
