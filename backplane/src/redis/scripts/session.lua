#!lua
-- Who owns a session without a connection of its own.
--
-- KEYS  the session
-- ARGV  'claim' | 'release', incarnation, for how long in ms, who the incarnation was before or ''
-- Gives the incarnation that owns it now; '' for nobody
local owner = redis.call('GET', KEYS[1])
local ours = owner and (owner == ARGV[2] or owner == ARGV[4])
if ARGV[1] == 'release' then
  if ours then
    redis.call('DEL', KEYS[1])
    return ''
  end
  return owner or ''
end
if owner and not ours then
  return owner
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return ARGV[2]
