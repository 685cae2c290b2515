-- Shared by the scripts that compare all places with the jobs that exist: compares only the
-- numbers.
local DELAYED, HELD = base .. 'delayed', base .. 'held'
local PAGE = 1000

-- Calls `visit` for each member that `read` returns, a bounded number at a time.
local function each(read, visit)
  local start = 0
  while true do
    local members = read(start, start + PAGE - 1)
    if #members == 0 then return end
    for _, member in ipairs(members) do visit(member) end
    start = start + PAGE
  end
end

local function each_group(visit)
  each(function(from, to) return redis.call('ZRANGE', HELD, from, to) end, visit)
end

-- Whether there are as many places as jobs, so that none is missing. True if jobs were enqueued
-- before the first worker started.
local function nothing_is_missing()
  local jobs = redis.call('XLEN', STREAM) + redis.call('ZCARD', DELAYED)
  each_group(function(name) jobs = jobs + redis.call('LLEN', base .. 'waiting:' .. name) end)
  for _, count in ipairs(redis.call('HVALS', base .. 'withdrawn')) do jobs = jobs - tonumber(count) end
  return jobs == redis.call('HLEN', JOBS)
end
