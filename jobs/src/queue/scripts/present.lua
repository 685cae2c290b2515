-- Shared by the scripts that compare places with the jobs that exist.
-- The result of XINFO for the consumer group; empty if there is none.
local info = {}
local infos = redis.pcall('XINFO', 'GROUPS', STREAM)
if not infos.err and infos[1] then
  for i = 1, #infos[1], 2 do info[infos[1][i]] = infos[1][i + 1] end
end

local function order(entry)
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local delivered_ms, delivered_seq = order(info['last-delivered-id'] or '0-0')

-- Whether a job is where its place says; if not, also its group, if known. An entry that was
-- delivered to a consumer that has been removed will not be delivered again; it is deleted, so that
-- its job can be enqueued again.
local function is_present(place)
  if string.find(place, '^[dw]') then return true end
  local found = redis.call('XRANGE', STREAM, place, place)
  if #found == 0 then return false end
  local ms, seq = order(place)
  if ms > delivered_ms or (ms == delivered_ms and seq > delivered_seq) then return true end
  local pending = redis.pcall('XPENDING', STREAM, 'workers', place, place, 1)
  if pending.err or #pending == 1 then return true end
  redis.call('XDEL', STREAM, place)
  redis.call('HDEL', base .. 'taken', place)
  return false, field(found[1][2], 'g')
end
