-- Takes jobs in: to the stream at once, or to the delayed set until they are due. An id that is
-- known (waits, runs or is delayed) or that finished a while ago is dropped.
-- KEYS: stream, known, finished, finished_before, delayed, bodies
-- ARGV: redelivery flag ('' or '1'), wake channel, then per job: id, delay in ms, envelope
-- What may fail comes first, so that an id is only known once its job is there.
-- Returns how many were taken.
local taken = 0
local earliest = nil
for i = 3, #ARGV, 3 do
  local id = ARGV[i]
  if redis.call('SISMEMBER', KEYS[3], id) == 0 and redis.call('SISMEMBER', KEYS[4], id) == 0
    and redis.call('SISMEMBER', KEYS[2], id) == 0 then
    local delay = tonumber(ARGV[i + 1])
    if delay > 0 then
      local now = redis.call('TIME')
      local due = now[1] * 1000 + math.floor(now[2] / 1000) + delay
      redis.call('HSET', KEYS[6], id, ARGV[i + 2])
      redis.call('ZADD', KEYS[5], due, id)
      if not earliest or delay < earliest then earliest = delay end
    elseif ARGV[1] == '1' then
      redis.call('XADD', KEYS[1], '*', 'e', ARGV[i + 2], 'r', '1')
    else
      redis.call('XADD', KEYS[1], '*', 'e', ARGV[i + 2])
    end
    redis.call('SADD', KEYS[2], id)
    taken = taken + 1
  end
end
if earliest then redis.call('PUBLISH', ARGV[2], earliest) end
return taken
