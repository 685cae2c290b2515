-- What tells one life of a queue's data from the next: a mark beside it, and the server's run id.
-- KEYS: epoch
-- ARGV: the mark to leave where there is none
-- Works at maxmemory too, unless the mark is missing.
local mark = redis.call('GET', KEYS[1])
if not mark then
  mark = ARGV[1]
  redis.call('SET', KEYS[1], mark)
end
return mark .. '/' .. string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
