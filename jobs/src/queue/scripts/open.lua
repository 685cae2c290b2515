-- Creates the consumer group if it is missing: initially, or after Redis or the stream lost data.
-- Then rebuilds the places from the jobs that exist: lost jobs are forgotten, so that they are
-- enqueued from the outbox again.
-- Returns 1, because jobs may have been lost; fails if the group exists.
local REBUILT, GROUPS = base .. 'rebuilt', base .. 'groups'
local CANCELLED, UNIQUE = base .. 'cancelled', base .. 'unique'
redis.call('XGROUP', 'CREATE', STREAM, 'workers', '0', 'MKSTREAM')
-- No consumer owns anything any more.
redis.call('UNLINK', base .. 'taken')

local function each_entry(visit)
  local start = '-'
  while true do
    local entries = redis.call('XRANGE', STREAM, start, '+', 'COUNT', PAGE)
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do visit(entry[1], entry[2]) end
    start = '(' .. entries[#entries][1]
  end
end

if nothing_is_missing() then return 1 end

redis.call('UNLINK', REBUILT, GROUPS)
each_entry(function(entry, fields)
  local id, name = field(fields, 'i'), field(fields, 'g')
  if id then redis.call('HSET', REBUILT, id, entry) end
  if name then redis.call('HINCRBY', GROUPS, name, 1) end
end)
each(function(from, to) return redis.call('ZRANGE', DELAYED, from, to) end,
  function(id) redis.call('HSET', REBUILT, id, 'd') end)
each_group(function(name)
  each(function(from, to) return redis.call('LRANGE', base .. 'waiting:' .. name, from, to) end, function(job)
    local id = string.sub(job, 1, 16)
    -- Except those that were cancelled there.
    if redis.call('HGET', JOBS, id) == 'w' .. name then redis.call('HSET', REBUILT, id, 'w' .. name) end
  end)
  redis.call('ZADD', HELD, 'XX', 0, name)
end)
redis.call('UNLINK', JOBS)
if redis.call('EXISTS', REBUILT) == 1 then redis.call('RENAME', REBUILT, JOBS) end

for _, id in ipairs(redis.call('SMEMBERS', CANCELLED)) do
  if redis.call('HEXISTS', JOBS, id) == 0 then redis.call('SREM', CANCELLED, id) end
end
local cursor = '0'
repeat
  local page = redis.call('HSCAN', UNIQUE, cursor, 'COUNT', PAGE)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local holder = page[2][i + 1]
    -- A key with a time limit is kept, whatever happened to its job.
    if #holder == 16 and redis.call('HEXISTS', JOBS, holder) == 0 then redis.call('HDEL', UNIQUE, page[2][i]) end
  end
until cursor == '0'
return 1
