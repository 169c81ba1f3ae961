-- Write the next revision of the wish, if the stored one is still the one that it was made of.
-- KEYS: revision, wanted models, aliases. ARGV: 'revision token' expected ('': there is none) and
-- new; then for each of the two hashes: how many fields are set, them, how many are removed, them.
-- A call that is repeated after its reply was lost has the effect of one.
local current = redis.call('GET', KEYS[1]) or ''
if current == ARGV[2] then
  return {1}
end
if current ~= ARGV[1] then
  return {0}
end
local at = 3
for _, key in ipairs({KEYS[2], KEYS[3]}) do
  local n = tonumber(ARGV[at])
  for i = at + 1, at + 2 * n, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  end
  at = at + 2 * n + 1
  n = tonumber(ARGV[at])
  for i = at + 1, at + n do
    redis.call('HDEL', key, ARGV[i])
  end
  at = at + n + 1
end
redis.call('SET', KEYS[1], ARGV[2])
return {1}
