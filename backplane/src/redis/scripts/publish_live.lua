#!lua
-- Publishes on a channel that keeps nothing. A script without flags, so that it is refused where it would be lost:
-- see publish.lua.
--
-- KEYS  channel, [idempotency key]
-- ARGV  frame, window of the idempotency key ms, 1 if something has to be written in any case, for WAIT to wait for
-- Gives { duplicate 0|1, "epoch:offset" or "" }
if KEYS[2] and not redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[2]) then
  if ARGV[3] == '1' then
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
  return { 1, redis.call('GET', KEYS[2]) }
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return { 0, '' }
