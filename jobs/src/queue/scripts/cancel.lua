-- Removes jobs that wait, wherever they are, and asks workers to stop running ones.
-- ARGV: limits of groups, then per job: id
-- Returns per job: 0 if it has no place, 1 if it was removed, 2 if its worker was asked to stop it.
local answers = {}

local function take_out(entry, id)
  local found = redis.call('XRANGE', STREAM, entry, entry)
  local fields = #found == 1 and found[1][2] or {}
  let_go({ entry })
  leave(field(fields, 'g') or '')
  forget(id, field(fields, 'e') or '')
end

for i = 4, #ARGV do
  local id = ARGV[i]
  local place = redis.call('HGET', JOBS, id)
  local kind = place and string.sub(place, 1, 1)
  local answer = place and 1 or 0
  if kind == 'd' then
    local _, body = unpack_delayed(redis.call('HGET', BODIES, id) or '\0')
    redis.call('ZREM', DELAYED, id)
    redis.call('HDEL', BODIES, id)
    forget(id, body)
  elseif kind == 'w' then
    -- Skipped when its turn comes: a list is not searched.
    redis.call('HDEL', JOBS, id)
    stop_failing({ id })
    redis.call('HINCRBY', base .. 'withdrawn', id, 1)
  elseif place then
    local pending = redis.pcall('XPENDING', STREAM, 'workers', place, place, 1)
    if pending.err or #pending == 0 then
      take_out(place, id)
    else
      redis.call('SADD', CANCELLED, id)
      redis.call('PUBLISH', base .. 'wake', 'cancel:' .. place)
      answer = 2
    end
  end
  answers[#answers + 1] = answer
end
save()
return answers
