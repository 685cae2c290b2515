-- Shared by all scripts of a queue: the names of its keys, which share the slot of KEYS[1].
-- Each function and name that a script defines costs time in every call, used or not. What only
-- some scripts need is therefore in separate parts (`script!` in broker.rs lists which script uses
-- which).
local STREAM = KEYS[1]
local base = string.sub(STREAM, 1, -7)
local JOBS = base .. 'jobs'

-- The time in ms, constant throughout a call.
local at
local function now()
  if not at then
    local time = redis.call('TIME')
    at = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return at
end
