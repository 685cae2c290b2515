-- Releases the unique key of a job that has started.
-- ARGV: key, id
local UNIQUE = base .. 'unique'
if redis.call('HGET', UNIQUE, ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', UNIQUE, ARGV[1])
