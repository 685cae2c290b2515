-- Delayed jobs: DELAYED tells when each is due, BODIES what it takes to admit it then.
local DELAYED, BODIES = base .. 'delayed', base .. 'bodies'

-- Added to the length of a delayed job's group when its row is to be looked at before it runs.
local AGAIN = 128

-- A delayed job as it is kept.
local function pack_delayed(name, body, again)
  return string.char(#name + (again and AGAIN or 0)) .. name .. body
end

-- Group, envelope, and whether its row is to be looked at, of a delayed job.
local function unpack_delayed(packed)
  local length = string.byte(packed)
  local again = length >= AGAIN
  if again then length = length - AGAIN end
  return string.sub(packed, 2, 1 + length), string.sub(packed, 2 + length), again
end
