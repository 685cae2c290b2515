-- Forgets the places of jobs that are not there, a step a call: those of jobs without a row in the
-- outbox are found by nothing else.
-- ARGV: cursor ('0' to begin), places looked at
-- Returns the next cursor ('0' at the end), and how many were forgotten.
local step = redis.call('HSCAN', JOBS, ARGV[1], 'COUNT', ARGV[2])
local forgotten = 0
for i = 1, #step[2], 2 do
  if not is_present(step[2][i + 1]) then
    redis.call('HDEL', JOBS, step[2][i])
    forgotten = forgotten + 1
  end
end
return { step[1], forgotten }
