-- Enqueues jobs: in the stream, in the list of their group, or in the delayed set until they are
-- due. An id that has a place is dropped, as is one that finished recently, unless it is enqueued
-- directly.
-- ARGV: limits of groups, mode ('direct', 'staged', 'again' or 'lost'), then per job: id, group,
-- delay in ms, unique key ('' or window, colon, key; a window is s, f or ms), envelope
-- Returns how many were enqueued, then the numbers, from 1, of the duplicates that were dropped.
-- The first write needs memory: at maxmemory it fails before anything has changed.
local how, first = ARGV[4], 5
local again = how == 'again' or how == 'lost'
local ids = {}
for i = first, #ARGV, 5 do ids[#ids + 1] = ARGV[i] end
local places = redis.call('HMGET', JOBS, unpack(ids))
local finished, before
if how ~= 'direct' then
  finished = redis.call('SMISMEMBER', base .. 'finished', unpack(ids))
  before = redis.call('SMISMEMBER', base .. 'finished_before', unpack(ids))
end
local known, answer, new, earliest = {}, { 0 }, {}, nil

-- Acquires a unique key for a job, unless another job holds it.
local function take_unique(unique, id)
  local window, key = string.match(unique, '^(%w+):(.*)$')
  local holder = redis.call('HGET', UNIQUE, key)
  if holder then
    local owner, ends = string.sub(holder, 1, 16), tonumber(string.sub(holder, 17))
    if owner ~= id then
      if ends and ends > now() then return false end
      if not ends and (known[owner] or redis.call('HEXISTS', JOBS, owner) == 1) then return false end
    end
  end
  local span = tonumber(window)
  if span then
    redis.call('HSET', UNIQUE, key, id .. (now() + span))
    redis.call('ZADD', base .. 'unique_until', now() + span, key)
  else
    redis.call('HSET', UNIQUE, key, id)
  end
  return true
end

for n, id in ipairs(ids) do
  local i = first + (n - 1) * 5
  if not places[n] and not known[id] and (not finished or (finished[n] == 0 and before[n] == 0)) then
    local name, delay, unique, body = ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
    -- A job that Redis lost is not dropped, even if another job holds its key now.
    if unique ~= '' and not take_unique(unique, id) and how ~= 'lost' then
      answer[#answer + 1] = n
    else
      new[#new + 1] = id
      if delay > 0 then
        redis.call('HSET', BODIES, id, pack_delayed(name, body, again))
        redis.call('ZADD', DELAYED, now() + delay, id)
        new[#new + 1] = 'd'
        if not earliest or delay < earliest then earliest = delay end
      else
        new[#new + 1] = admit(id, name, body, again)
      end
      known[id] = true
      answer[1] = answer[1] + 1
    end
  end
end
if #new > 0 then redis.call('HSET', JOBS, unpack(new)) end
-- A dead letter that is retried from its row is no longer dead.
if again and #new > 0 then
  local alive = {}
  for id in pairs(known) do alive[#alive + 1] = id end
  redis.call('ZREM', base .. 'dead', unpack(alive))
  redis.call('HDEL', base .. 'dead_bodies', unpack(alive))
end
save()
if earliest then redis.call('PUBLISH', base .. 'wake', earliest) end
return answer
