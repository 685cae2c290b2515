-- The state of a queue.
-- Returns the numbers of ready, running, delayed, held-back and dead jobs, the age in ms of the
-- oldest ready job, the number of jobs that retry, and the ms since the first failure of the job
-- that has been failing for longest, and the number of delayed jobs whose time has come.

-- Jobs that ended without a settling script, or were settled by a release that does not know FAILING,
-- are forgotten here, the oldest first and at most this many per call.
local LEFT_MAX = 100

local function oldest_failure()
  for _ = 1, LEFT_MAX do
    local oldest = redis.call('ZRANGE', FAILING, 0, 0, 'WITHSCORES')
    if #oldest == 0 then return end
    if redis.call('HEXISTS', JOBS, oldest[1]) == 1 then return tonumber(oldest[2]) end
    stop_failing({ oldest[1] })
  end
end

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
local failing_since = oldest_failure()
local failing_age = failing_since and math.max(0, now() - failing_since) or 0
return {
  length - running, running, delayed, held, redis.call('ZCARD', base .. 'dead'), age,
  redis.call('SCARD', RETRYING), failing_age, redis.call('ZCOUNT', base .. 'delayed', '-inf', now())
}
