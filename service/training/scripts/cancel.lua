-- A user wants a job's end: it ends where it waits, and where it runs its attempt is told.
-- → OK | GONE
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'GONE'} end
if status == 'queued' or status == 'running' then redis.call('HSET', KEYS[1], 'cancel', 1) end
if status == 'queued' then end_cancelled() end
return {'OK'}
