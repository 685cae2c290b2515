-- Which jobs are where their places say. The places of the others are forgotten.
-- ARGV: limits of groups, then per job: id, group
-- Returns per job 1 or 0.
local answers = {}
for i = 4, #ARGV, 2 do
  local place = redis.call('HGET', JOBS, ARGV[i])
  local present = place and is_present(place)
  if place and not present then
    redis.call('HDEL', JOBS, ARGV[i])
    leave(ARGV[i + 1])
  end
  answers[#answers + 1] = present and 1 or 0
end
save()
return answers
