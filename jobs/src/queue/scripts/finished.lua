-- Remembers ids for a while, in two generations: the older one is deleted. The first write needs no
-- memory.
local function remember(ids, memory, most)
  local finished, before, since = base .. 'finished', base .. 'finished_before', base .. 'finished_since'
  if redis.call('EXISTS', since) == 0 or redis.call('SCARD', finished) * 2 >= most then
    redis.call('UNLINK', before)
    if redis.call('EXISTS', finished) == 1 then redis.call('RENAME', finished, before) end
    redis.pcall('SET', since, '1', 'PX', memory)
  end
  redis.pcall('SADD', finished, unpack(ids))
end
