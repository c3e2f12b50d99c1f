-- Takes members of one channel away that still have this serial, and tells that they left. Whose incarnation wrote the
-- entry does not count: a connection has one serial, and its node may be another one than before.
--
-- KEYS  members, channels of the incarnation; meta, list, channel of the stream of joins and leaves; users, transitions
-- ARGV  incarnation, channel, generation, fresh epoch, size, ttl ms, meta ttl ms, 1 if transitions are asked for, 1 if the
--       incarnation has no other member there; for each member: client, serial
-- Gives for each: 1 it has left, 0 it was not there or is another's by now
local members, mine, users, transitions = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local results, told, n = {}, {}, open(members, users)
for i = 10, #ARGV, 2 do
  local client, serial = ARGV[i], ARGV[i + 1]
  local known, its_serial = find(members, client)
  local result = 0
  if known and its_serial == tonumber(serial) then
    local member = string.sub(known, string.find(known, '\n', #client + 2, true) + 1)
    local position, newer = append(KEYS[3], KEYS[4], KEYS[5], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), event(LEAVE, member))
    if not position then
      close(users, n, transitions, told)
      return stale(newer)
    end
    redis.call('ZREM', members, known)
    n = n - 1
    if count(users, user_of(member), -1) and ARGV[8] == '1' then
      told[#told + 1] = transition('L', n == 0, position, ARGV[2], member)
    end
    result = 1
  end
  results[#results + 1] = result
end
close(users, n, transitions, told)
if ARGV[9] == '1' then
  redis.call('SREM', mine, ARGV[2])
end
return results
