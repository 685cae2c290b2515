-- Stands before every script that settles jobs: which of them the consumer still holds. One that was
-- taken over after its lease ran out is left to its new holder (fencing): its entry stands in TAKEN
-- with who holds it now, or it has another place, or none.

local TAKEN, CANCELLED = base .. 'taken', base .. 'cancelled'

-- Who took over each of `entries`. That is rare, so most calls only ask whether any was.
local function takers(entries)
  if #entries == 0 or redis.call('EXISTS', TAKEN) == 0 then return {} end
  return redis.call('HMGET', TAKEN, unpack(entries))
end

-- For each of `ids`, 1 when its worker was asked to stop it; those that were not may be left out.
local function asked_to_stop(ids)
  if #ids == 0 or redis.call('EXISTS', CANCELLED) == 0 then return {} end
  return redis.call('SMISMEMBER', CANCELLED, unpack(ids))
end

-- Whether `entry` is the job's. Bytes that we did not write have no place, only their entry.
local function stands(entry, id, place)
  if place then return place == entry end
  local found = redis.call('XRANGE', STREAM, entry, entry)
  if #found == 0 then return false end
  local named = field(found[1][2], 'i') or ''
  return named == id or (id == '' and #named ~= 16)
end

-- For each of `entries`, true when `consumer` holds it; one that is named twice is held once. `ids`
-- are the jobs', '' where unknown.
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

-- Lets go of entries that were held.
local function let_go(entries)
  if #entries == 0 then return end
  redis.call('XACK', STREAM, 'workers', unpack(entries))
  redis.call('XDEL', STREAM, unpack(entries))
  if redis.call('EXISTS', TAKEN) == 1 then redis.call('HDEL', TAKEN, unpack(entries)) end
end
