#!lua
-- Which generation of this partition's master we speak to. It is a new one whenever the replication id changes: a
-- restart, a promotion, an emptied Redis. Read inside the script, for a separate INFO can race with a promotion.
--
-- KEYS  generation
-- ARGV  the least that it must be
-- Gives the generation
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not replid then
  return redis.error_reply('NOREPLID this service hides its replication id')
end
local least = tonumber(ARGV[1])
local g = redis.call('HMGET', KEYS[1], 'r', 'n')
local n = tonumber(g[2] or nil) or 0
if g[1] == replid and n >= least then
  return n
end
-- By the clock, so that it rises even if this key was lost.
local time = redis.call('TIME')
n = math.max(n + 1, time[1] * 1000 + math.floor(time[2] / 1000), least)
redis.call('HSET', KEYS[1], 'r', replid, 'n', string.format('%.0f', n))
return n
