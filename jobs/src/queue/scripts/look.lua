-- Where one job is, and its content.
-- ARGV: id
-- Returns nothing if it is unknown; otherwise its state, its envelope (or dead letter) and where it
-- is: the entry, the group in whose list it waits (without its envelope: a list is not searched
-- here), or the time when it is due or died. For a running job also its consumer, ms since its
-- lease was renewed, and how often it was delivered.
local id = ARGV[1]
local place = redis.call('HGET', JOBS, id)
if not place then
  local died = redis.call('ZSCORE', base .. 'dead', id)
  return died and { 'dead', redis.call('HGET', base .. 'dead_bodies', id) or '', died } or {}
end
local kind = string.sub(place, 1, 1)
if kind == 'w' then return { 'held', '', string.sub(place, 2) } end
if kind == 'd' then
  local body, due = redis.call('HGET', BODIES, id), redis.call('ZSCORE', DELAYED, id)
  if not body or not due then return {} end
  local _, envelope = unpack_delayed(body)
  return { 'delayed', envelope, due }
end
local found = redis.call('XRANGE', STREAM, place, place)
if #found == 0 then return {} end
local envelope = field(found[1][2], 'e') or ''
local pending = redis.pcall('XPENDING', STREAM, 'workers', place, place, 1)
if pending.err or #pending == 0 then return { 'ready', envelope, place } end
return { 'running', envelope, place, pending[1][2], tostring(pending[1][3]), tostring(pending[1][4]) }
