-- Read a session. KEYS: record. ARGV: from, to or ''; '' and '': the last turn's completion.
-- → FOUND record, turn record, whether the holder is alive, tokens | NOT_FOUND
--   | DAMAGED positions of the frame whose checksum differs
local r = load(KEYS[1])
if not r then return {'NOT_FOUND'} end
if IS_CLUSTER then
  want_session(r)
  local reply = lacks(r.holder, ARGV[3])
  if reply then return reply end
end
touch(r)
local from, to = tonumber(ARGV[1]), tonumber(ARGV[2])
if not from then from, to = tonumber(r.first), tonumber(r.finish) end
local found, first, last = tokens(r, from, to or r.position)
if not found then return {'DAMAGED', first, last} end
return {'FOUND', as_list(r), redis.call('GET', request_of(r)) or '', is_alive(r.holder) and 1 or 0,
  found}
