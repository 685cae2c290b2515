-- Retries dead letters.
-- ARGV: limits of groups, then per job: id, group, whether it has a row ('1' or '0'), envelope
-- Returns how many were dead and are queued again. The first write needs memory: at maxmemory it
-- fails and they stay dead.
local DEAD, DEAD_BODIES = base .. 'dead', base .. 'dead_bodies'
local replayed = 0
for i = 4, #ARGV, 4 do
  local id = ARGV[i]
  if redis.call('ZSCORE', DEAD, id) then
    if redis.call('HEXISTS', JOBS, id) == 0 then
      -- If there is a row, it must be checked: the relay may have enqueued the job in the meantime.
      redis.call('HSET', JOBS, id, admit(id, ARGV[i + 1], ARGV[i + 3], ARGV[i + 2] == '1'))
    end
    redis.call('SREM', base .. 'finished', id)
    redis.call('SREM', base .. 'finished_before', id)
    redis.call('ZREM', DEAD, id)
    redis.call('HDEL', DEAD_BODIES, id)
    replayed = replayed + 1
  end
end
save()
return replayed
