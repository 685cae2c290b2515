-- The state of a queue.
-- Returns the numbers of ready, running, delayed, held-back and dead jobs, and the age in ms of the
-- oldest ready job.
local length = redis.call('XLEN', STREAM)
local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
local running, last = 0, '0-0'
if not groups.err and #groups > 0 then
  local field = {}
  for i = 1, #groups[1], 2 do field[groups[1][i]] = groups[1][i + 1] end
  running, last = field['pending'], field['last-delivered-id']
end
local oldest = redis.call('XRANGE', STREAM, '(' .. last, '+', 'COUNT', 1)
local age = 0
if #oldest == 1 then age = math.max(0, now() - tonumber(string.match(oldest[1][1], '^%d+'))) end
local delayed = redis.call('ZCARD', base .. 'delayed')
local held = math.max(0, redis.call('HLEN', JOBS) - length - delayed)
return { length - running, running, delayed, held, redis.call('ZCARD', base .. 'dead'), age }
