-- Stands before every script that settles jobs: which of them the consumer still holds. One that was
-- taken over after its lease ran out is left to its new holder (fencing): its entry stands in TAKEN
-- with who holds it now, or it has another place, or none.

-- Who took over each of `entries`. That is rare, so most calls only ask whether any was.
local function takers(entries)
  if #entries == 0 or redis.call('EXISTS', TAKEN) == 0 then return {} end
  return redis.call('HMGET', TAKEN, unpack(entries))
end

-- For each of `entries`, true when `consumer` holds it. `ids` are the jobs', '' where unknown.
local function holds(consumer, entries, ids)
  local held = {}
  if #entries == 0 then return held end
  local places, taken = redis.call('HMGET', JOBS, unpack(ids)), takers(entries)
  for n, entry in ipairs(entries) do
    held[n] = (places[n] == entry or ids[n] == '') and (not taken[n] or taken[n] == consumer)
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

-- Whether the job was cancelled while it ran; forgotten with the asking, so that only whoever lets go of
-- it may ask.
local some_cancelled
local function was_cancelled(id)
  if some_cancelled == nil then some_cancelled = redis.call('EXISTS', CANCELLED) == 1 end
  return some_cancelled and redis.call('SREM', CANCELLED, id) == 1
end
