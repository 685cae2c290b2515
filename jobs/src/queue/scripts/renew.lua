-- Renews the leases of the entries that this consumer still owns.
-- ARGV: consumer, then per job: entry, id
-- Returns two lists of entries: those that it no longer owns, and those with jobs to cancel.
local consumer, entries, ids = ARGV[1], {}, {}
for i = 2, #ARGV, 2 do entries[#entries + 1], ids[#ids + 1] = ARGV[i], ARGV[i + 1] end
local taken, ours, kept, lost, cancelled = takers(entries), {}, {}, {}, {}
for n, entry in ipairs(entries) do
  if not taken[n] or taken[n] == consumer then ours[#ours + 1] = entry end
end
if #ours > 0 then
  ours[#ours + 1] = 'JUSTID'
  for _, entry in ipairs(redis.call('XCLAIM', STREAM, 'workers', consumer, 0, unpack(ours))) do kept[entry] = true end
end
local asked = asked_to_stop(ids)
for n, entry in ipairs(entries) do
  if not kept[entry] then lost[#lost + 1] = entry
  elseif asked[n] == 1 then cancelled[#cancelled + 1] = entry end
end
return { lost, cancelled }
