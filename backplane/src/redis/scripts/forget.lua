#!lua
-- Lets go of a channel's history and begins a new line, and says so to whoever follows it.
--
-- KEYS  meta, list, channel
-- ARGV  generation, fresh epoch
-- Gives 1, or 0 without a line
local left = redis.call('PTTL', KEYS[1])
if left == -2 then
  redis.call('DEL', KEYS[2])
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'n', ARGV[1], 'e', ARGV[2], 'o', '0')
if left > 0 then
  redis.call('PEXPIRE', KEYS[1], left)
end
-- Version 1, flags 2 (a line begins), epoch. See frame.rs.
redis.call('PUBLISH', KEYS[3], '\1\2' .. ARGV[2])
return 1
