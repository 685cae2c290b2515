-- A cancelled job has no place any more.
local function forget(id, body)
  redis.call('HDEL', JOBS, id)
  redis.call('SREM', CANCELLED, id)
  stop_failing({ id })
  release_of(id, body)
end
