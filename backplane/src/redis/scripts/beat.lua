#!lua
-- A node says that it is alive, and hears who else is.
--
-- KEYS  beats of all incarnations, what this one tells, its tombstone, those that have resigned
-- ARGV  incarnation, what it tells, how long that lives in ms, 1 if it has beaten before
-- Gives { now in ms, 'ok' | 'reaped' | 'lost', { incarnation, last beat in ms, … }, { resigned incarnation, … } }
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local status = 'ok'
if redis.call('EXISTS', KEYS[3]) == 1 then
  status = 'reaped'
else
  if ARGV[4] == '1' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    status = 'lost'
  end
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 86400000)
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
local beats = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
return { now, status, beats, redis.call('SMEMBERS', KEYS[4]) }
