-- Forgets the places of jobs that are not there, a step a call: those of jobs without a row in the
-- outbox are found by nothing else.
-- ARGV: the groups' limits, cursor ('0' to begin), places looked at
-- Returns the next cursor ('0' at the end), and how many were forgotten.
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
