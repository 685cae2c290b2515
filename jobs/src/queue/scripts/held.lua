-- Shared by all scripts that settle jobs: which of them the consumer still owns. A job that was
-- taken over after its lease expired is left to its new owner (fencing): TAKEN contains its entry
-- with the new owner, or it has another place, or none.

local TAKEN, CANCELLED = base .. 'taken', base .. 'cancelled'

-- The new owner of each of `entries`. Take-overs are rare, so most calls only check whether there
-- are any.
local function takers(entries)
  if #entries == 0 or redis.call('EXISTS', TAKEN) == 0 then return {} end
  return redis.call('HMGET', TAKEN, unpack(entries))
end

-- For each of `ids`, 1 if its worker was asked to stop it; 0 or nothing otherwise.
local function asked_to_stop(ids)
  if #ids == 0 or redis.call('EXISTS', CANCELLED) == 0 then return {} end
  return redis.call('SMISMEMBER', CANCELLED, unpack(ids))
end

-- Whether `entry` is the job's. An entry that the engine did not write has no place.
local function stands(entry, id, place)
  if place then return place == entry end
  local found = redis.call('XRANGE', STREAM, entry, entry)
  if #found == 0 then return false end
  local named = field(found[1][2], 'i') or ''
  return named == id or (id == '' and #named ~= 16)
end

-- For each of `entries`, whether `consumer` owns it; only once for an entry that occurs twice.
-- `ids` are the jobs, '' if unknown.
local function holds(consumer, entries, ids)
  local held, seen = {}, {}
  if #entries == 0 then return held end
  local places, taken = redis.call('HMGET', JOBS, unpack(ids)), takers(entries)
  for n, entry in ipairs(entries) do
    held[n] = not seen[entry] and (not taken[n] or taken[n] == consumer) and stands(entry, ids[n], places[n])
    seen[entry] = true
  end
  return held
end

-- Removes entries that the consumer owned.
local function let_go(entries)
  if #entries == 0 then return end
  redis.call('XACK', STREAM, 'workers', unpack(entries))
  redis.call('XDEL', STREAM, unpack(entries))
  if redis.call('EXISTS', TAKEN) == 1 then redis.call('HDEL', TAKEN, unpack(entries)) end
end
