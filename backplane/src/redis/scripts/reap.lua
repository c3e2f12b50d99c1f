-- Takes away what a dead incarnation has on one channel, so many entries at a time, and tells that they left.
--
-- KEYS  members, channels of the incarnation; meta, list, channel of the stream of joins and leaves; users, transitions
-- ARGV  incarnation, channel, generation, fresh epoch, size, ttl ms, meta ttl ms, 1 if transitions are asked for, after
--       which entry to go on ('' at first), how many to look at
-- Gives { how many have left, after which entry to go on ('' at the end) }
local members, mine, users, transitions = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local from = ARGV[9] == '' and '-' or '(' .. ARGV[9]
local most = tonumber(ARGV[10])
local entries = redis.call('ZRANGEBYLEX', members, from, '+', 'LIMIT', 0, most)
local left, told, n = 0, {}, open(members, users)
for _, entry in ipairs(entries) do
  local incarnation, at = string.match(entry, '^[^%z]+%z%d+ (%x+)\n()')
  if incarnation == ARGV[1] then
    local member = string.sub(entry, at)
    local position, newer = append(KEYS[3], KEYS[4], KEYS[5], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), event(LEAVE, member))
    if not position then
      close(users, n, transitions, told)
      return stale(newer)
    end
    redis.call('ZREM', members, entry)
    left, n = left + 1, n - 1
    if count(users, user_of(member), -1) and ARGV[8] == '1' then
      told[#told + 1] = transition('L', n == 0, position, ARGV[2], member)
    end
  end
end
close(users, n, transitions, told)
if #entries < most then
  redis.call('SREM', mine, ARGV[2])
  return { left, '' }
end
return { left, entries[#entries] }
