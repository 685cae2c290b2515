-- Makes delayed jobs due now.
-- ARGV: per job: id
-- Returns how many were delayed.
local DELAYED, hastened = base .. 'delayed', 0
for i = 1, #ARGV do
  if redis.call('HGET', JOBS, ARGV[i]) == 'd' then
    redis.call('ZADD', DELAYED, 'XX', 'LT', now(), ARGV[i])
    hastened = hastened + 1
  end
end
if hastened > 0 then redis.call('PUBLISH', base .. 'wake', 0) end
return hastened
