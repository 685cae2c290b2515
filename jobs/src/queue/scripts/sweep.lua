-- Forgets the places of jobs that do not exist, one step per call. Nothing else finds those of jobs
-- without an outbox row.
-- ARGV: limits of groups, cursor ('0' to begin), number of places to check
-- Returns the next cursor ('0' at the end), and how many places were forgotten.

-- Checking every place costs as much as running the jobs, and each worker that starts may have to.
-- Therefore only the numbers are compared first. `lag` is the number of entries that were not
-- delivered yet; Redis does not always know it.
local function all_is_accounted_for()
  local delivered = info.lag and redis.call('XLEN', STREAM) - info.lag
  return delivered == info.pending and nothing_is_missing()
end
if ARGV[4] == '0' and all_is_accounted_for() then return { '0', 0 } end

local step = redis.call('HSCAN', JOBS, ARGV[4], 'COUNT', ARGV[5])
local forgotten = 0
for i = 1, #step[2], 2 do
  local present, name = is_present(step[2][i + 1])
  if not present then
    redis.call('HDEL', JOBS, step[2][i])
    leave(name or '')
    forgotten = forgotten + 1
  end
end
save()
return { step[1], forgotten }
