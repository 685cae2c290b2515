-- How a queue stands.
-- KEYS: stream, delayed, dead
-- Returns ready, running, delayed, dead, and the age in ms of the oldest job that is ready.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local length = redis.call('XLEN', KEYS[1])
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
local running, last = 0, '0-0'
if not groups.err and #groups > 0 then
  local field = {}
  for i = 1, #groups[1], 2 do field[groups[1][i]] = groups[1][i + 1] end
  running, last = field['pending'], field['last-delivered-id']
end
local oldest = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)
local age = 0
if #oldest == 1 then age = math.max(0, now_ms - tonumber(string.match(oldest[1][1], '^%d+'))) end
return {length - running, running, redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), age}
