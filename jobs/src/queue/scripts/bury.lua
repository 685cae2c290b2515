-- Sends running jobs to the dead letters and keeps those bounded by age and number. Fenced as in
-- finish.lua. At most 100 old ones go a call, so that no call takes long.
-- KEYS: stream, known, dead, dead_bodies
-- ARGV: consumer, retention in ms, dead letters kept at most, then per job: entry, id, dead letter
-- Returns how many were held.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held = 0
for i = 4, #ARGV, 3 do
  local entry, id = ARGV[i], ARGV[i + 1]
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])
  if not pending.err and #pending == 1 then
    redis.call('HSET', KEYS[4], id, ARGV[i + 2])
    redis.call('ZADD', KEYS[3], now_ms, id)
    redis.call('XACK', KEYS[1], 'workers', entry)
    redis.call('XDEL', KEYS[1], entry)
    redis.call('SREM', KEYS[2], id)
    held = held + 1
  end
end
local excess = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[3])
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms - tonumber(ARGV[2]), 'LIMIT', 0, 100)
if excess > 0 and #gone == 0 then
  gone = redis.call('ZRANGE', KEYS[3], 0, math.min(excess, 100) - 1)
end
if #gone > 0 then
  redis.call('ZREM', KEYS[3], unpack(gone))
  redis.call('HDEL', KEYS[4], unpack(gone))
end
return held
