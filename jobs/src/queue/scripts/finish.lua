-- Lets go of jobs that are done. Only the consumer that still holds an entry may: one that was
-- taken over after its lease ran out is left to its new holder (fencing).
-- KEYS: stream, known, finished, finished_before, finished_since
-- ARGV: consumer, memory in ms, ids remembered at most, then per job: entry, id
-- Returns how many were held. Works at maxmemory too, or nothing would ever make room: what needs
-- memory comes last and may fail.
local held = 0
for i = 4, #ARGV, 2 do
  local entry, id = ARGV[i], ARGV[i + 1]
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])
  if not pending.err and #pending == 1 then
    redis.call('XACK', KEYS[1], 'workers', entry)
    redis.call('XDEL', KEYS[1], entry)
    redis.call('SREM', KEYS[2], id)
    held = held + 1
  end
end
if redis.call('EXISTS', KEYS[5]) == 0 or redis.call('SCARD', KEYS[3]) * 2 >= tonumber(ARGV[3]) then
  redis.call('UNLINK', KEYS[4])
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('RENAME', KEYS[3], KEYS[4]) end
  redis.pcall('SET', KEYS[5], '1', 'PX', ARGV[2])
end
for i = 5, #ARGV, 2 do redis.pcall('SADD', KEYS[3], ARGV[i]) end
return held
