-- Takes back tries that were no failures, and marks who made them as familiar.
-- KEYS: the mark, buckets
-- ARGV: how long they are familiar in milliseconds; 0 for not at all
for at = 2, #KEYS do
  if tonumber(redis.call('GET', KEYS[at]) or '0') > 0 then redis.call('DECR', KEYS[at]) end
end
if tonumber(ARGV[1]) > 0 then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 1
