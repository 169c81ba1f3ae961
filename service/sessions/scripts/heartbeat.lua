-- Mark a process as alive. KEYS: process. ARGV: milliseconds until it expires. → ALIVE
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'ALIVE'}
