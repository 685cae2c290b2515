-- Makes the consumer group where it is missing. Where the stream itself is missing nothing of any
-- group is in it, so that what waits behind may go; whether jobs were lost with it is found by
-- comparing places with entries.
-- Returns 1 when jobs may have been lost.
local GROUPS, HELD = base .. 'groups', base .. 'held'
local lost = redis.call('EXISTS', STREAM) == 0
redis.call('XGROUP', 'CREATE', STREAM, 'workers', '0', 'MKSTREAM')
if not lost then return 0 end
redis.call('UNLINK', GROUPS, TAKEN)
for _, name in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do redis.call('ZADD', HELD, 0, name) end
return 1
