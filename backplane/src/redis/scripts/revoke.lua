#!lua flags=allow-oom
-- It may even when Redis is out of memory: what it writes is small and bounded, and a stolen token does not wait for memory.
-- Remembers which tokens no longer count; of what was said of one subject the furthest holds.
--
-- Revocations are a sorted set whose scores are all 0, in the order of its texts, so that it can be read in pages while it
-- changes:
--   subject SPACE issued before ms SPACE until ms
-- A subject says how long it is, so no text begins with another's subject. When each ends is a second sorted set.
--
-- KEYS  revocations, their ends
-- ARGV  subject, issued before ms, until ms, how many there may be
-- Gives 1, or 0 if there are as many already
local revoked, ends = KEYS[1], KEYS[2]
local subject, issued, until_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function find(subject)
  return redis.call('ZRANGEBYLEX', revoked, '[' .. subject .. ' ', '(' .. subject .. '!', 'LIMIT', 0, 1)[1]
end

-- So many at a time that nobody waits for it. While there are any, there is room for one more.
for _, over in ipairs(redis.call('ZRANGE', ends, '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, 256)) do
  local entry = find(over)
  if entry then
    redis.call('ZREM', revoked, entry)
  end
  redis.call('ZREM', ends, over)
end

if until_ms <= now then
  return 1
end
local known = find(subject)
if known then
  local its_issued, its_until = string.match(known, '^(%d+) (%d+)$', #subject + 2)
  issued, until_ms = math.max(issued, tonumber(its_issued)), math.max(until_ms, tonumber(its_until))
  redis.call('ZREM', revoked, known)
elseif redis.call('ZCARD', revoked) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('ZADD', revoked, 0, subject .. string.format(' %.0f %.0f', issued, until_ms))
redis.call('ZADD', ends, string.format('%.0f', until_ms), subject)
-- Both live as long as the last of them.
local last = redis.call('ZRANGE', ends, -1, -1, 'WITHSCORES')[2]
local lives = string.format('%.0f', tonumber(last) - now + 1)
redis.call('PEXPIRE', revoked, lives)
redis.call('PEXPIRE', ends, lives)
return 1
