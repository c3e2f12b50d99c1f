#!lua flags=allow-oom
-- It may even when Redis is out of memory: an empty line is small, and without it nobody could subscribe.
-- Where a channel with history stands; begins its line if there is none, so that even the first subscriber of an empty
-- channel holds a position to come back with.
--
-- KEYS  meta, list
-- ARGV  generation, fresh epoch, meta ttl ms
-- Gives { epoch, offset, boundaries, length of the list }
local m = redis.call('HMGET', KEYS[1], 'n', 'e', 'o', 'b')
if m[1] and m[2] and m[3] then
  return { m[2], m[3], m[4] or '', redis.call('LLEN', KEYS[2]) }
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'n', ARGV[1], 'e', ARGV[2], 'o', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { ARGV[2], '0', '', 0 }
