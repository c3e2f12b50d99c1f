-- Takes away what a dead incarnation has on one channel, so many entries at a time, and tells that they left.
--
-- KEYS  members, channels of the incarnation; meta, list, channel of the stream of joins and leaves
-- ARGV  incarnation, channel, generation, fresh epoch, size, ttl ms, meta ttl ms, after which entry to go on ('' at first),
--       how many to look at
-- Gives { how many have left, after which entry to go on ('' at the end) }
local members, mine = KEYS[1], KEYS[2]
local from = ARGV[8] == '' and '-' or '(' .. ARGV[8]
local count = tonumber(ARGV[9])
local entries = redis.call('ZRANGEBYLEX', members, from, '+', 'LIMIT', 0, count)
local left = 0
for _, entry in ipairs(entries) do
  local incarnation, at = string.match(entry, '^[^%z]+%z%d+ (%x+)\n()')
  if incarnation == ARGV[1] then
    local position, newer = append(KEYS[3], KEYS[4], KEYS[5], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), event(LEAVE, string.sub(entry, at)))
    if not position then
      return stale(newer)
    end
    redis.call('ZREM', members, entry)
    left = left + 1
  end
end
if #entries < count then
  redis.call('SREM', mine, ARGV[2])
  return { left, '' }
end
return { left, entries[#entries] }
