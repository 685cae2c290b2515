-- Takes over entries with leases that are still expired, and records the new owner. If several
-- workers try, the first one gets each entry.
-- ARGV: consumer, lease in ms, then per job: entry
-- Returns the entries with their fields.
local consumer, lease = ARGV[1], ARGV[2]
local entries = {}
for i = 3, #ARGV do entries[#entries + 1] = ARGV[i] end
local claimed = redis.call('XCLAIM', STREAM, 'workers', consumer, lease, unpack(entries))
for _, entry in ipairs(claimed) do redis.call('HSET', base .. 'taken', entry[1], consumer) end
return claimed
