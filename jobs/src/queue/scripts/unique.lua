-- Unique keys: UNIQUE contains which job holds each.
local UNIQUE = base .. 'unique'

-- Releases a unique key that this job holds until it has started or finished.
local function release(key, id)
  if redis.call('HGET', UNIQUE, key) == id then redis.call('HDEL', UNIQUE, key) end
end

-- The same, if only the job's envelope contains its unique key.
local function release_of(id, body)
  local read, envelope = pcall(cjson.decode, body)
  local unique = read and type(envelope) == 'table' and envelope.unique
  local key = type(unique) == 'string' and string.match(unique, '^[sf]:(.*)$')
  if key then release(key, id) end
end
