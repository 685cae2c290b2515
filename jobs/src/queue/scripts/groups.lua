-- Shared by all scripts that add jobs to the stream or remove them: the limits of tenants.
-- A group (a tenant) has at most `limit` jobs in the stream, waiting or running. With a rate, at
-- most one job enters every `interval` ms after a burst. Further jobs wait in the group's own list
-- and follow when a job of the group leaves, so that the backlog of one tenant does not delay the
-- jobs of others. HELD contains every group with a list, with the time of its next check.
local HELD_LOOK = 5000
-- Maximum number of cancelled jobs that one call removes from a list; the next check follows at
-- once.
local WITHDRAWN_MAX = 500
local limit, interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local GROUPS = base .. 'groups'
local touched = {}

-- The group as this call sees and changes it; written back by save().
local function group(name)
  local found = touched[name]
  if not found then
    found = { running = tonumber(redis.call('HGET', GROUPS, name)) or 0, waiting = redis.call('LLEN', base .. 'waiting:' .. name) }
    found.running_before, found.waiting_before = found.running, found.waiting
    if interval > 0 then found.next = tonumber(redis.call('GET', base .. 'rate:' .. name)) or 0 end
    touched[name] = found
  end
  return found
end

-- When the group's rate admits its next job (GCRA: `next` is when the bucket is full again).
local function admitted_at(found)
  return found.next - interval * (burst - 1)
end

local function has_room(found)
  return found.running < limit and (interval == 0 or admitted_at(found) <= now())
end

-- Adds a job to the stream; its place is the new entry.
local function enter(id, name, body, again)
  if name ~= '' then
    local found = group(name)
    found.running = found.running + 1
    if interval > 0 then found.next = math.max(found.next, now()) + interval end
    if again then return redis.call('XADD', STREAM, '*', 'i', id, 'e', body, 'g', name, 'r', '1') end
    return redis.call('XADD', STREAM, '*', 'i', id, 'e', body, 'g', name)
  end
  if again then return redis.call('XADD', STREAM, '*', 'i', id, 'e', body, 'r', '1') end
  return redis.call('XADD', STREAM, '*', 'i', id, 'e', body)
end

-- Adds a job to the stream, or to the list of its group. Returns its place.
local function admit(id, name, body, again)
  if name ~= '' then
    local found = group(name)
    if found.waiting > 0 or not has_room(found) then
      redis.call('RPUSH', base .. 'waiting:' .. name, id .. (again and '1' or '0') .. body)
      found.waiting = found.waiting + 1
      return 'w' .. name
    end
  end
  return enter(id, name, body, again)
end

-- One job of the group has left the stream.
local function leave(name)
  if name ~= '' then
    local found = group(name)
    found.running = math.max(0, found.running - 1)
  end
end

-- Whether a job taken from a list was cancelled while it waited there. If it was enqueued again
-- since, the new one is further back in the list, has a place and keeps its key.
local function was_withdrawn(id, body)
  local withdrawn = base .. 'withdrawn'
  if not redis.call('HGET', withdrawn, id) then return false end
  if redis.call('HINCRBY', withdrawn, id, -1) == 0 then redis.call('HDEL', withdrawn, id) end
  if redis.call('HEXISTS', JOBS, id) == 0 then release_of(id, body) end
  return true
end

-- Admits waiting jobs of a group. Returns whether the call reached its limit of cancelled jobs
-- first.
local function let_in(name, found)
  local withdrawn = 0
  while found.waiting > 0 and has_room(found) and withdrawn < WITHDRAWN_MAX do
    local job = redis.call('LPOP', base .. 'waiting:' .. name)
    found.waiting = found.waiting - 1
    local id, body = string.sub(job, 1, 16), string.sub(job, 18)
    if was_withdrawn(id, body) then
      withdrawn = withdrawn + 1
    else
      redis.call('HSET', JOBS, id, enter(id, name, body, string.sub(job, 17, 17) == '1'))
    end
  end
  return withdrawn >= WITHDRAWN_MAX
end

-- Admits waiting jobs of the groups that this call touched, and writes the groups back.
local function save()
  for name, found in pairs(touched) do
    local look_at_once = let_in(name, found)
    if found.running == 0 then
      if found.running_before > 0 then redis.call('HDEL', GROUPS, name) end
    elseif found.running ~= found.running_before then
      redis.call('HSET', GROUPS, name, found.running)
    end
    if interval > 0 and found.next > now() then
      redis.call('SET', base .. 'rate:' .. name, found.next, 'PX', math.ceil(found.next - now()))
    end
    if found.waiting > 0 then
      local look = look_at_once and now() or now() + HELD_LOOK
      if found.running < limit then look = math.min(look, interval == 0 and 0 or admitted_at(found)) end
      redis.call('ZADD', base .. 'held', look, name)
    elseif found.waiting_before > 0 then
      redis.call('ZREM', base .. 'held', name)
    end
  end
end
