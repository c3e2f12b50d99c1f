#!lua flags=allow-oom
-- It may even when Redis is out of memory: what it writes is small, and without it nobody could read.
-- Which generation of this partition's master we speak to. It is a new one whenever the master may be another one than
-- before: its replication id has changed by a restart, a promotion, an emptied Redis. Read inside the script, for a
-- separate INFO can race with a promotion.
--
-- KEYS  generation
-- ARGV  the least that it must be
--       how a master is known: 'replid', 'run_id', or by our connection: 'new' for its first question, 'known' for others
-- Gives the generation
local least, mode = tonumber(ARGV[1]), ARGV[2]
local id = mode
if mode == 'replid' then
  id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
elseif mode == 'run_id' then
  id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end
if not id then
  return redis.error_reply('NOREPLID this service hides its ' .. mode .. '; see backplane.generation')
end
local g = redis.call('HMGET', KEYS[1], 'r', 'n')
local n = tonumber(g[2] or nil) or 0
local is_known = g[1] == id
if mode == 'new' or mode == 'known' then
  is_known = mode == 'known' and n > 0
end
if is_known and n >= least then
  return n
end
-- By the clock, so that it rises even if this key was lost.
local time = redis.call('TIME')
n = math.max(n + 1, time[1] * 1000 + math.floor(time[2] / 1000), least)
redis.call('HSET', KEYS[1], 'r', id, 'n', string.format('%.0f', n))
return n
