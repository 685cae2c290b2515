-- Gives jobs that were fetched and not finished back to the queue at once, uncounted. They keep
-- their part of their group's share. One that was cancelled meanwhile is gone instead.
-- ARGV: the groups' limits, consumer, then per job: entry
-- Returns how many were held.
local consumer, back = ARGV[4], 0
local entries = {}
for i = 5, #ARGV do entries[#entries + 1] = ARGV[i] end
local taken = takers(entries)
for n, entry in ipairs(entries) do
  local found = redis.call('XRANGE', STREAM, entry, entry)
  if #found == 1 and (not taken[n] or taken[n] == consumer) then
    local fields, id, name, again = found[1][2], nil, '', false
    for i = 1, #fields, 2 do
      if fields[i] == 'i' then id = fields[i + 1] end
      if fields[i] == 'g' then name = fields[i + 1] end
      if fields[i] == 'r' then again = true end
    end
    let_go({ entry })
    if id and was_cancelled(id) then
      leave(name)
      redis.call('HDEL', JOBS, id)
    else
      -- It may have been taken over from someone who was through with it: the row decides again.
      if not again then fields[#fields + 1], fields[#fields + 2] = 'r', '1' end
      local place = redis.call('XADD', STREAM, '*', unpack(fields))
      if id then redis.call('HSET', JOBS, id, place) end
    end
    back = back + 1
  end
end
save()
return back
