-- Stands before every script of a queue: the names of its keys, which all share the slot of KEYS[1].
local STREAM = KEYS[1]
local base = string.sub(STREAM, 1, -7)
local JOBS, DELAYED, BODIES = base .. 'jobs', base .. 'delayed', base .. 'bodies'
local TAKEN, CANCELLED = base .. 'taken', base .. 'cancelled'
local GROUPS, HELD, WITHDRAWN = base .. 'groups', base .. 'held', base .. 'withdrawn'
local UNIQUE, UNIQUE_UNTIL = base .. 'unique', base .. 'unique_until'

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A field of a stream's entry: 'i' the job's id, 'e' its envelope, 'g' its group, 'r' that its row is to
-- be looked at before it runs.
local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

-- Remembers ids for a while, in two generations of which the older is forgotten: needs no memory to begin with.
local function remember(ids, memory, most)
  local finished, before, since = base .. 'finished', base .. 'finished_before', base .. 'finished_since'
  if redis.call('EXISTS', since) == 0 or redis.call('SCARD', finished) * 2 >= most then
    redis.call('UNLINK', before)
    if redis.call('EXISTS', finished) == 1 then redis.call('RENAME', finished, before) end
    redis.pcall('SET', since, '1', 'PX', memory)
  end
  redis.pcall('SADD', finished, unpack(ids))
end

-- Added to the length of a delayed job's group when its row is to be looked at before it runs.
local AGAIN = 128

-- A delayed job as it is kept: what it takes to admit it when its time has come.
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
