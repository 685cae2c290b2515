-- Takes back an attempt that did not fail, and marks its network as familiar.
-- KEYS: the mark of a familiar network, the buckets
-- ARGV: how long the network stays familiar in milliseconds; 0 to not mark it
for at = 2, #KEYS do
  if tonumber(redis.call('GET', KEYS[at]) or '0') > 0 then redis.call('DECR', KEYS[at]) end
end
if tonumber(ARGV[1]) > 0 then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 1
