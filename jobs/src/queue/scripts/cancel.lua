-- Takes jobs out wherever they wait; whoever runs one is asked to stop. The ids of the others are
-- remembered as if they had finished: one may be on its way here from the outbox.
-- ARGV: the groups' limits, wake channel, then per job: id
-- Returns per job: 0 for one that has no place, 1 for one taken out, 2 for one whose worker was asked.
local wake, answers = ARGV[4], {}

-- What a job in the stream is unique by is only in its envelope; a key whose owner has no place is
-- nobody's, so that nothing has to be let go of here.
local function take_out(entry, id)
  local found = redis.call('XRANGE', STREAM, entry, entry)
  local fields = #found == 1 and found[1][2] or {}
  for i = 1, #fields, 2 do
    if fields[i] == 'g' then leave(fields[i + 1]) end
  end
  redis.call('XDEL', STREAM, entry)
  redis.call('HDEL', JOBS, id)
end

for i = 5, #ARGV do
  local id = ARGV[i]
  local place = redis.call('HGET', JOBS, id)
  local kind = place and string.sub(place, 1, 1)
  local answer = place and 1 or 0
  if kind == 'd' then
    redis.call('ZREM', DELAYED, id)
    redis.call('HDEL', BODIES, id)
    redis.call('HDEL', JOBS, id)
  elseif kind == 'w' then
    -- Passed over when its turn comes: a list is not searched.
    redis.call('SADD', CANCELLED, id)
    redis.call('HDEL', JOBS, id)
  elseif place then
    local pending = redis.pcall('XPENDING', STREAM, 'workers', place, place, 1)
    if pending.err or #pending == 0 then
      take_out(place, id)
    else
      redis.call('SADD', CANCELLED, id)
      redis.call('PUBLISH', wake, 'cancel:' .. place)
      answer = 2
    end
  end
  if answer ~= 2 then redis.call('SADD', base .. 'finished', id) end
  answers[#answers + 1] = answer
end
save()
return answers
