-- Identifies the current lifetime of a queue's data: a mark stored beside it, and the server's run
-- id.
-- KEYS: epoch
-- ARGV: the mark to store if there is none
-- Works at maxmemory, unless the mark is missing.
local mark = redis.call('GET', KEYS[1])
if not mark then
  mark = ARGV[1]
  redis.call('SET', KEYS[1], mark)
end
return mark .. '/' .. string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
