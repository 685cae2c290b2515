-- Moves jobs whose time has come to the stream, a bounded batch a call.
-- KEYS: stream, known, delayed, bodies
-- ARGV: batch size
-- Returns how many moved, and the ms until the next is due (-1 when none is).
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(due) do
  local body = redis.call('HGET', KEYS[4], id)
  if body then
    redis.call('XADD', KEYS[1], '*', 'e', body)
  else
    redis.call('SREM', KEYS[2], id)
  end
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[4], id)
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if #first == 0 then return {#due, -1} end
return {#due, math.max(0, tonumber(first[2]) - now_ms)}
