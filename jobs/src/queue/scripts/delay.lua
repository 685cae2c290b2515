-- Delays running jobs: for a retry, or because this worker does not know their kind. A job that its
-- worker was asked to stop is removed instead.
-- ARGV: limits of groups, consumer, then per job: entry, id, group, delay in ms, whether it failed
-- ('1' or '0'), envelope
-- Returns how many the consumer owned.
local consumer, first = ARGV[4], 5
local entries, ids = {}, {}
for i = first, #ARGV, 6 do
  entries[#entries + 1], ids[#ids + 1] = ARGV[i], ARGV[i + 1]
end
local delayed, earliest = {}, nil
local held, asked = holds(consumer, entries, ids), asked_to_stop(ids)
for n, entry in ipairs(entries) do
  if held[n] then delayed[#delayed + 1] = entry end
end
let_go(delayed)
for n, id in ipairs(ids) do
  if held[n] then
    local i = first + (n - 1) * 6
    local name, delay = ARGV[i + 2], tonumber(ARGV[i + 3])
    leave(name)
    if asked[n] == 1 then
      forget(id, ARGV[i + 5])
    else
      -- By now the envelope says whether the row must be checked.
      redis.call('HSET', BODIES, id, pack_delayed(name, ARGV[i + 5], false))
      redis.call('ZADD', DELAYED, now() + delay, id)
      if ARGV[i + 4] == '1' then redis.call('ZADD', FAILING, 'NX', now(), id) end
      if redis.call('ZSCORE', FAILING, id) then redis.call('SADD', RETRYING, id) end
      redis.call('HSET', JOBS, id, 'd')
      if not earliest or delay < earliest then earliest = delay end
    end
  end
end
save()
if earliest then redis.call('PUBLISH', base .. 'wake', earliest) end
return #delayed
