-- Gives dead letters another try. What needs memory comes first: at maxmemory it fails and they
-- stay dead.
-- KEYS: stream, known, finished, finished_before, dead, dead_bodies
-- ARGV: per job: id, envelope
-- Returns how many were dead and wait again.
local replayed = 0
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('ZSCORE', KEYS[5], id) then
    if redis.call('SISMEMBER', KEYS[2], id) == 0 then
      redis.call('XADD', KEYS[1], '*', 'e', ARGV[i + 1])
      redis.call('SADD', KEYS[2], id)
    end
    redis.call('SREM', KEYS[3], id)
    redis.call('SREM', KEYS[4], id)
    redis.call('ZREM', KEYS[5], id)
    redis.call('HDEL', KEYS[6], id)
    replayed = replayed + 1
  end
end
return replayed
