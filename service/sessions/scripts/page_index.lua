-- A page of an index, the newest first, on a cluster. KEYS: index. ARGV: members, the time and the id
-- that the page begins after, or '' and ''. → PAGE, ids and times
local index, most, time, after = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local rank = rank_after(index, time, after)
local found = redis.call('ZREVRANGE', index, rank, rank + most, 'WITHSCORES')
local page = {}
for i = 1, #found, 2 do
  local is_first = found[i] == after and tonumber(found[i + 1]) == tonumber(time)
  if not is_first and #page < 2 * most then
    page[#page + 1] = found[i]
    page[#page + 1] = found[i + 1]
  end
end
return {'PAGE', page}
