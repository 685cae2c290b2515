-- Delayed jobs: DELAYED contains when each is due, BODIES what admitting it then requires.
local DELAYED, BODIES = base .. 'delayed', base .. 'bodies'

-- Added to the length of a delayed job's group if its row must be checked before it runs.
local AGAIN = 128

-- A delayed job as stored.
local function pack_delayed(name, body, again)
  return string.char(#name + (again and AGAIN or 0)) .. name .. body
end

-- Group, envelope, and whether the row must be checked, of a delayed job.
local function unpack_delayed(packed)
  local length = string.byte(packed)
  local again = length >= AGAIN
  if again then length = length - AGAIN end
  return string.sub(packed, 2, 1 + length), string.sub(packed, 2 + length), again
end
