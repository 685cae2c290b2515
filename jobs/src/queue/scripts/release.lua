-- Lets go of a unique key whose job has started.
-- ARGV: key, id
local UNIQUE = base .. 'unique'
if redis.call('HGET', UNIQUE, ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', UNIQUE, ARGV[1])
