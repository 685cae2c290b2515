-- Takes one request from each bucket, or from none if one of them is exhausted.
-- KEYS: the buckets. Each stores when it will be full again, in microseconds.
-- ARGV: for each bucket, its window in microseconds and its quota in a window.
-- Returns whether requests were taken (1 or 0), then for each bucket: the requests that are left, the time until the
-- next one is added, and the time to wait for a request (0 unless the bucket is exhausted), in microseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local stored = redis.call('MGET', unpack(KEYS))
local buckets, is_taken = {}, 1
for at = 1, #KEYS do
  local window, quota = tonumber(ARGV[2 * at - 1]), tonumber(ARGV[2 * at])
  local interval = window / quota
  -- Not later than a window from now: the quota may be lower than before, and the clock may have been set back.
  local full_at = math.min(math.max(tonumber(stored[at] or now), now), now + window)
  local wait = math.max(full_at + interval - now - window, 0)
  -- A division may be off by less than a microsecond.
  if wait < 1 then wait = 0 else is_taken = 0 end
  buckets[at] = {window = window, interval = interval, full_at = full_at, wait = wait}
end
local answer = {is_taken}
for at, bucket in ipairs(buckets) do
  if is_taken == 1 then
    bucket.full_at = bucket.full_at + bucket.interval
    local ttl = math.ceil((bucket.full_at - now) / 1000) + 1
    redis.call('SET', KEYS[at], string.format('%.3f', bucket.full_at), 'PX', ttl)
  end
  local free = math.max(bucket.window - (bucket.full_at - now), 0)
  local left = math.floor((free + 1) / bucket.interval)
  local next = math.max((left + 1) * bucket.interval - free, 0)
  if bucket.full_at <= now then next = 0 end
  table.insert(answer, left)
  table.insert(answer, math.ceil(next))
  table.insert(answer, math.ceil(bucket.wait))
end
return answer
