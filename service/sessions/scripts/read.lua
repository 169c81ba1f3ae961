-- KEYS: record, turn. ARGV: from, to or ''. → FOUND record, request, whether its holder lives,
-- tokens | NOT_FOUND
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
touch(r, KEYS[2])
local to = ARGV[2] == '' and r.position or math.min(r.position, tonumber(ARGV[2]))
return {'FOUND', as_list(r), redis.call('GET', KEYS[2]) or '', is_alive(r.holder) and 1 or 0,
  tokens(r, tonumber(ARGV[1]), to)}
