-- Returns jobs that were fetched and not finished to the queue at once, without counting an
-- attempt. They still count towards their group's limit. A job that its worker was asked to stop is
-- removed instead.
-- ARGV: limits of groups, consumer, then per job: entry
-- Returns how many the consumer owned.
local consumer, back = ARGV[4], 0

local function give_back(entry, fields, id)
  -- It may have been taken over from a worker that had finished it, so its row must be checked.
  if not field(fields, 'r') then fields[#fields + 1], fields[#fields + 2] = 'r', '1' end
  let_go({ entry })
  local place = redis.call('XADD', STREAM, '*', unpack(fields))
  if id then redis.call('HSET', JOBS, id, place) end
end

for i = 5, #ARGV do
  local entry = ARGV[i]
  local found = redis.call('XRANGE', STREAM, entry, entry)
  local fields = #found == 1 and found[1][2] or {}
  local id = field(fields, 'i')
  if #found == 1 and holds(consumer, { entry }, { id or '' })[1] then
    if id and asked_to_stop({ id })[1] == 1 then
      let_go({ entry })
      leave(field(fields, 'g') or '')
      forget(id, field(fields, 'e') or '')
    else
      give_back(entry, fields, id)
    end
    back = back + 1
  end
end
save()
return back
