-- Stands before the scripts that compare places with what is there.
local group_info = redis.pcall('XINFO', 'GROUPS', STREAM)
local delivered_ms, delivered_seq = 0, 0
if not group_info.err and group_info[1] then
  for i = 1, #group_info[1], 2 do
    if group_info[1][i] == 'last-delivered-id' then
      local ms, seq = string.match(group_info[1][i + 1], '^(%d+)-(%d+)$')
      delivered_ms, delivered_seq = tonumber(ms), tonumber(seq)
    end
  end
end

-- Whether a job is where its place says, and its group where that can be told. An entry that was
-- delivered to a consumer that somebody removed will not be delivered again; it is taken out, so that
-- its job can be handed over again.
local function is_present(place)
  if string.find(place, '^[dw]') then return true end
  local found = redis.call('XRANGE', STREAM, place, place)
  if #found == 0 then return false end
  local ms, seq = string.match(place, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  if ms > delivered_ms or (ms == delivered_ms and seq > delivered_seq) then return true end
  local pending = redis.pcall('XPENDING', STREAM, 'workers', place, place, 1)
  if pending.err or #pending == 1 then return true end
  redis.call('XDEL', STREAM, place)
  redis.call('HDEL', base .. 'taken', place)
  return false, field(found[1][2], 'g')
end
