-- Makes the consumer group where it is missing. Where the stream itself is missing its jobs are
-- gone, so that their places are forgotten: the outbox hands those jobs over again. What is delayed or
-- waits behind its group is still there.
-- Returns 1 when jobs may have been lost.
local GROUPS, HELD = base .. 'groups', base .. 'held'
local lost = redis.call('EXISTS', STREAM) == 0
redis.call('XGROUP', 'CREATE', STREAM, 'workers', '0', 'MKSTREAM')
if not lost then return 0 end
redis.call('UNLINK', JOBS, GROUPS, TAKEN)
local still_cancelled = base .. 'cancelled_kept'

-- Runs `visit` on the members that `read` answers from an index on, a bounded number a step.
local function each(read, visit)
  local start = 0
  while true do
    local members = read(start, start + 999)
    if #members == 0 then return end
    for _, member in ipairs(members) do visit(member) end
    start = start + 1000
  end
end

each(function(from, to) return redis.call('ZRANGE', DELAYED, from, to) end,
  function(id) redis.call('HSET', JOBS, id, 'd') end)
each(function(from, to) return redis.call('ZRANGE', HELD, from, to) end, function(name)
  each(function(from, to) return redis.call('LRANGE', base .. 'waiting:' .. name, from, to) end,
    function(job)
      local id = string.sub(job, 1, 16)
      if redis.call('SISMEMBER', CANCELLED, id) == 1 then
        redis.call('SADD', still_cancelled, id)
      else
        redis.call('HSET', JOBS, id, 'w' .. name)
      end
    end)
  redis.call('ZADD', HELD, 'XX', 0, name)
end)
-- Who was to stop is gone with the stream.
redis.call('UNLINK', CANCELLED)
if redis.call('EXISTS', still_cancelled) == 1 then redis.call('RENAME', still_cancelled, CANCELLED) end
return 1
