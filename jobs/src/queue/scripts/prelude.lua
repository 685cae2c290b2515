-- Stands before every script of a queue: the names of its keys, which all share the slot of KEYS[1].
local STREAM = KEYS[1]
local base = string.sub(STREAM, 1, -7)
local JOBS, DELAYED, BODIES = base .. 'jobs', base .. 'delayed', base .. 'bodies'
local TAKEN, CANCELLED = base .. 'taken', base .. 'cancelled'

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
