-- Change a train job: check its state and its fence, then apply the state's row, all at once.
-- ARGV: the attempt that the caller is of, or '' for a user; the lease: 'keep', 'end', 'absent'
-- (refuse while there is one), or its length in ms; JSON with a row for each state that allows the
-- change. A row has `to`, the state afterwards; `fields` to set; `next_attempt`, `is_over`,
-- and `event` with `data`, where there is an event. A row that opens an ended job again has
-- `open_limit`, how many of the owner's jobs may be open.
-- Returns OK with the new state, FENCED or FULL.
local attempt, lease, rows = ARGV[1], ARGV[2], cjson.decode(ARGV[3])
local state, current = read_state()
local row = rows[state]
if not row or (attempt ~= '' and attempt ~= current) then return {'FENCED'} end
if row.open_limit and count_open(KEYS[5]) >= row.open_limit then return {'FULL'} end
if lease == 'absent' then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {'FENCED'} end
elseif lease == 'end' then
  redis.call('DEL', KEYS[2])
elseif lease ~= 'keep' then
  redis.call('SET', KEYS[2], current, 'PX', lease)
end
for name, value in pairs(row.fields) do redis.call('HSET', KEYS[1], name, value) end
if row.next_attempt then redis.call('HINCRBY', KEYS[1], 'attempt', 1) end
redis.call('HSET', KEYS[1], 'status', row.to)
if row.event then append_event(row.event, row.data) end
if row.is_over then close() end
if row.open_limit then reopen() end
return {'OK', row.to}
