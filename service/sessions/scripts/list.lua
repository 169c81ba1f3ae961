-- List an owner's sessions, the newest first. KEYS: the index of an owner. ARGV: sessions at most,
-- members to look at at most, the time and the id that the page begins after, or '' and ''.
-- → LISTED, the time and the id of the last member or '' and '', then id and record of each session
local index, limit, most, time, after = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local record = key('session', string.sub(index, #key('sessions', '') + 1)) .. '/'
local rank = rank_after(index, time, after)
local listed, n, last = {}, 0, {'', ''}
local found = redis.call('ZREVRANGE', index, rank, rank + most, 'WITHSCORES')
for i = 1, #found, 2 do
  if found[i] ~= after or tonumber(found[i + 1]) ~= tonumber(time) then
    if n == limit or i > 2 * most then return {'LISTED', last[1], last[2], unpack(listed)} end
    local r = load(record .. found[i])
    if r then
      n = n + 1
      listed[#listed + 1] = found[i]
      listed[#listed + 1] = as_list(r)
    else
      redis.call('ZREM', index, found[i]) -- it has expired
    end
    last = {string.format('%.0f', found[i + 1]), found[i]}
  end
end
return {'LISTED', '', '', unpack(listed)}
