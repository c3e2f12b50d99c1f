-- Publishes on a channel with history: one step, or none of it. `append` stands in append.lua.
--
-- A script without flags: Redis refuses it on a replica, with too few replicas, without memory or with a failing disk
-- *before* it runs, so those errors mean "certainly not done". A bare PUBLISH would be accepted there, and lost.
--
-- KEYS  meta, list, channel, [idempotency key]
-- ARGV  generation, fresh epoch, size, ttl ms, meta ttl ms, window of the idempotency key ms, envelope,
--       1 if something has to be written in any case, for WAIT to wait for
-- Gives { duplicate 0|1, "epoch:offset" or "" }
local meta, list, channel, idempotency = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

if idempotency then
  local first = redis.call('GET', idempotency)
  if first then
    if ARGV[8] == '1' then
      redis.call('PEXPIRE', idempotency, ARGV[6])
    end
    return { 1, first }
  end
end

local position, newer = append(meta, list, channel, tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]),
  tonumber(ARGV[5]), ARGV[7])
if not position then
  return stale(newer)
end
if idempotency then
  redis.call('SET', idempotency, position, 'PX', ARGV[6])
end
return { 0, position }
