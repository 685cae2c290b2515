-- Takes tokens of the queue's rate, from a bucket that all workers share (GCRA).
-- ARGV: ms per token, burst size, number of tokens wanted
-- Returns how many were taken, and, if none, the ms until the next one.
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local key = base .. 'rate'
local next = math.max(tonumber(redis.call('GET', key)) or 0, now())
local free = math.floor((now() + interval * burst - next) / interval)
local taken = math.min(free, wanted)
if taken <= 0 then return { 0, math.max(1, math.ceil(next + interval - interval * burst - now())) } end
next = next + taken * interval
redis.call('SET', key, next, 'PX', math.ceil(next - now()) + 1)
return { taken, 0 }
