-- Remembers jobs that were dropped as not unique as if they had finished, so that a hand-over of one that
-- comes late is dropped, too. One that has come in by now, for its key was free by then, is to run.
-- ARGV: ms that ids are remembered, ids remembered at most, then ids
-- Returns the numbers, from 1, of those that are dropped for good.
local dropped, ids = {}, {}
for i = 3, #ARGV do
  if redis.call('HEXISTS', JOBS, ARGV[i]) == 0 then
    dropped[#dropped + 1], ids[#ids + 1] = i - 2, ARGV[i]
  end
end
if #ids > 0 then remember(ids, ARGV[1], tonumber(ARGV[2])) end
return dropped
