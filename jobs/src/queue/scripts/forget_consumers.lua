-- Removes consumers that own no entry and have been idle for long: their processes have ended.
-- ARGV: idle time in ms
-- Returns how many were removed.
local consumers = redis.pcall('XINFO', 'CONSUMERS', STREAM, 'workers')
if consumers.err then return 0 end
local gone = 0
for _, consumer in ipairs(consumers) do
  local field = {}
  for i = 1, #consumer, 2 do field[consumer[i]] = consumer[i + 1] end
  if field['pending'] == 0 and field['idle'] > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', STREAM, 'workers', field['name'])
    gone = gone + 1
  end
end
return gone
