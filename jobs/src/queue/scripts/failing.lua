-- Failing jobs: FAILING contains when each first failed since it was enqueued, RETRYING those of
-- them that wait for their next attempt. `stats` removes what is left of jobs that ended otherwise.
local FAILING, RETRYING = base .. 'failing', base .. 'retrying'

-- Jobs have ended. Failures are rare, so most calls only check whether there are any.
local function stop_failing(ids)
  if #ids == 0 or redis.call('EXISTS', FAILING) == 0 then return end
  redis.call('ZREM', FAILING, unpack(ids))
  redis.call('SREM', RETRYING, unpack(ids))
end
