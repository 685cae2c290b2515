-- Gives jobs that were fetched and not finished back to the queue at once, uncounted. They keep
-- their part of their group's share. One that was asked to stop is not given back.
-- ARGV: the groups' limits, consumer, then per job: entry
-- Returns how many were held.
local consumer, back = ARGV[4], 0

local function give_back(entry, fields, id)
  -- It may have been taken over from someone who was through with it: the row decides again.
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
