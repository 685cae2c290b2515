-- Puts running jobs back to run later: a retry, or a kind this worker does not know. Fenced as
-- in finish.lua. What needs memory comes first: at maxmemory it fails and nothing is let go.
-- KEYS: stream, delayed, bodies
-- ARGV: consumer, wake channel, then per job: entry, id, delay in ms, envelope
-- Returns how many were held.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held = 0
local earliest = nil
for i = 3, #ARGV, 4 do
  local entry, id, delay = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])
  if not pending.err and #pending == 1 then
    redis.call('HSET', KEYS[3], id, ARGV[i + 3])
    redis.call('ZADD', KEYS[2], now_ms + delay, id)
    redis.call('XACK', KEYS[1], 'workers', entry)
    redis.call('XDEL', KEYS[1], entry)
    held = held + 1
    if not earliest or delay < earliest then earliest = delay end
  end
end
if earliest then redis.call('PUBLISH', ARGV[2], earliest) end
return held
