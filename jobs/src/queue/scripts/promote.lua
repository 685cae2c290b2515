-- Moves due jobs to the stream, admits jobs of groups that have room again, and deletes expired
-- unique keys: a bounded batch per call.
-- ARGV: limits of groups, batch size
-- Returns how many moved, and the ms until the next check is needed (-1 if none is).
local HELD, UNIQUE_UNTIL = base .. 'held', base .. 'unique_until'
local batch = tonumber(ARGV[4])
local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now(), 'LIMIT', 0, batch)
if #due > 0 then
  local bodies = redis.call('HMGET', BODIES, unpack(due))
  -- Needs no memory, so that at maxmemory due jobs still run and free memory.
  redis.call('ZREM', DELAYED, unpack(due))
  redis.call('HDEL', BODIES, unpack(due))
  if redis.call('EXISTS', RETRYING) == 1 then redis.call('SREM', RETRYING, unpack(due)) end
  for n, id in ipairs(due) do
    if bodies[n] then
      local name, body, again = unpack_delayed(bodies[n])
      redis.call('HSET', JOBS, id, admit(id, name, body, again))
    else
      redis.call('HDEL', JOBS, id)
    end
  end
end
local held = redis.call('ZRANGEBYSCORE', HELD, '-inf', now(), 'LIMIT', 0, batch)
-- Needs no memory either; jobs that must continue to wait are put back.
if #held > 0 then redis.call('ZREM', HELD, unpack(held)) end
for _, name in ipairs(held) do group(name) end
save()
local over = redis.call('ZRANGEBYSCORE', UNIQUE_UNTIL, '-inf', now(), 'LIMIT', 0, batch)
for _, key in ipairs(over) do
  local ends = tonumber(string.sub(redis.call('HGET', UNIQUE, key) or '', 17))
  if ends and ends <= now() then redis.call('HDEL', UNIQUE, key) end
  redis.call('ZREM', UNIQUE_UNTIL, key)
end
local moved = math.max(#due, #held, #over)
local wait = -1
for _, key in ipairs({ DELAYED, HELD }) do
  local next = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if #next == 2 then
    local left = math.max(0, math.ceil(tonumber(next[2]) - now()))
    if wait < 0 or left < wait then wait = left end
  end
end
return { moved, wait }
