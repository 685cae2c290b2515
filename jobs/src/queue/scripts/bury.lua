-- Moves running jobs to the dead letters, which are limited by age and number. At most 100 old ones
-- are deleted per call, so that no call takes long.
-- ARGV: limits of groups, consumer, retention in ms, maximum number of dead letters, number of
-- jobs, then per job: entry, id ('' if unreadable), group, dead letter; then per unique key to
-- release: key, id
-- Returns how many the consumer owned.
local consumer, retention, most, count, first = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), 8
local DEAD, DEAD_BODIES = base .. 'dead', base .. 'dead_bodies'
local entries, ids = {}, {}
for n = 1, count do
  local i = first + (n - 1) * 4
  entries[n], ids[n] = ARGV[i], ARGV[i + 1]
end
local held, buried, ended = holds(consumer, entries, ids), {}, {}
for n, entry in ipairs(entries) do
  if held[n] then buried[#buried + 1] = entry end
end
let_go(buried)
for n, entry in ipairs(entries) do
  if held[n] then
    local i, id = first + (n - 1) * 4, ids[n]
    leave(ARGV[i + 2])
    ended[id] = true
    if id == '' then
      id = entry
    else
      redis.call('HDEL', JOBS, id)
      redis.call('SREM', CANCELLED, id)
      stop_failing({ id })
    end
    redis.call('HSET', DEAD_BODIES, id, ARGV[i + 3])
    redis.call('ZADD', DEAD, now(), id)
  end
end
for i = first + count * 4, #ARGV, 2 do
  if ended[ARGV[i + 1]] then release(ARGV[i], ARGV[i + 1]) end
end
save()
local excess = redis.call('ZCARD', DEAD) - most
local gone = redis.call('ZRANGEBYSCORE', DEAD, '-inf', now() - retention, 'LIMIT', 0, 100)
if excess > 0 and #gone == 0 then
  gone = redis.call('ZRANGE', DEAD, 0, math.min(excess, 100) - 1)
end
if #gone > 0 then
  redis.call('ZREM', DEAD, unpack(gone))
  redis.call('HDEL', DEAD_BODIES, unpack(gone))
end
return #buried
