-- Remembers dropped duplicates as if they had finished, so that enqueueing one late drops it too. A
-- job that was enqueued in the meantime, because its key was free by then, will run.
-- ARGV: ms that ids are remembered, maximum number of ids, then ids
-- Returns the numbers, from 1, of those that are dropped permanently.
local dropped, ids = {}, {}
for i = 3, #ARGV do
  if redis.call('HEXISTS', JOBS, ARGV[i]) == 0 then
    dropped[#dropped + 1], ids[#ids + 1] = i - 2, ARGV[i]
  end
end
if #ids > 0 then remember(ids, ARGV[1], tonumber(ARGV[2])) end
return dropped
