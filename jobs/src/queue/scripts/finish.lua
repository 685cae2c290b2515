-- Removes finished jobs and admits the next jobs of their groups.
-- ARGV: limits of groups, consumer, ms that ids are remembered (0 for not), maximum number of ids,
-- number of jobs, then per job: entry, id, group; then per unique key to release: key, id
-- Returns how many the consumer owned. Works at maxmemory, or nothing could ever free memory: the
-- first writes need none.
local consumer, memory, most, count, first = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), 8
local entries, ids = {}, {}
for n = 1, count do
  local i = first + (n - 1) * 3
  entries[n], ids[n] = ARGV[i], ARGV[i + 1]
end
local done, done_ids, ended = {}, {}, {}
for n, held in ipairs(holds(consumer, entries, ids)) do
  if held then
    done[#done + 1], done_ids[#done_ids + 1] = entries[n], ids[n]
    ended[ids[n]] = true
    leave(ARGV[first + (n - 1) * 3 + 2])
  end
end
let_go(done)
if #done > 0 then
  redis.call('HDEL', JOBS, unpack(done_ids))
  if redis.call('EXISTS', CANCELLED) == 1 then redis.call('SREM', CANCELLED, unpack(done_ids)) end
  stop_failing(done_ids)
end
for i = first + count * 3, #ARGV, 2 do
  if ended[ARGV[i + 1]] then release(ARGV[i], ARGV[i + 1]) end
end
save()
-- Also jobs that the consumer no longer owns: their new owner will find nothing to do.
if memory ~= '0' and count > 0 then remember(ids, memory, most) end
return #done
