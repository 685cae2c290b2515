-- Gives jobs that were fetched and not finished back to the queue at once, uncounted. Fenced as
-- in finish.lua.
-- KEYS: stream
-- ARGV: consumer, then per job: entry
-- Returns how many were held.
local held = 0
for i = 2, #ARGV do
  local entry = ARGV[i]
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])
  if not pending.err and #pending == 1 then
    local found = redis.call('XRANGE', KEYS[1], entry, entry)
    if #found == 1 then
      local fields = found[1][2]
      -- It may have been taken over from someone who was through with it: the row decides again.
      redis.call('XADD', KEYS[1], '*', 'e', fields[2], 'r', '1')
    end
    redis.call('XACK', KEYS[1], 'workers', entry)
    redis.call('XDEL', KEYS[1], entry)
    held = held + 1
  end
end
return held
