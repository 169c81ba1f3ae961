-- KEYS: process. ARGV: milliseconds for which it counts as alive. It runs in a full store too.
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'ALIVE'}
