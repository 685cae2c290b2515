-- Makes the consumer group where it is missing. Where the stream itself is missing its jobs are
-- gone, so that the ids that were known by it are forgotten: the outbox hands those jobs over again.
-- KEYS: stream, known, delayed
-- Returns 1 when jobs may have been lost.
local lost = redis.call('EXISTS', KEYS[1]) == 0
redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
if lost then
  redis.call('UNLINK', KEYS[2])
  -- At most this many arguments to a call; the rest is added by the next calls of the loop.
  local start = 0
  while true do
    local ids = redis.call('ZRANGE', KEYS[3], start, start + 999)
    if #ids == 0 then break end
    redis.call('SADD', KEYS[2], unpack(ids))
    start = start + 1000
  end
  return 1
end
return 0
