-- Renews the leases of the entries that this consumer still holds.
-- KEYS: stream
-- ARGV: consumer, then per job: entry
-- Returns the entries that it does not hold any more.
local lost = {}
for i = 2, #ARGV do
  local entry = ARGV[i]
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])
  if not pending.err and #pending == 1 then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, entry, 'JUSTID')
  else
    lost[#lost + 1] = entry
  end
end
return lost
