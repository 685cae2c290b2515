-- Stands before every script of a queue: the names of its keys, which all share the slot of KEYS[1].
-- A call pays for every function and name that its script defines, whether it uses them or not: what
-- only some scripts need is in a part of its own (`script!` in broker.rs lists who takes which).
local STREAM = KEYS[1]
local base = string.sub(STREAM, 1, -7)
local JOBS = base .. 'jobs'

-- The time in ms, the same throughout a call.
local at
local function now()
  if not at then
    local time = redis.call('TIME')
    at = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return at
end
