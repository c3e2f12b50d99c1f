-- Writes members of one channel, and tells those that were not there.
--
-- KEYS  members, channels of the incarnation; meta, list, channel of the stream of joins and leaves; users, transitions
-- ARGV  incarnation, channel, generation, fresh epoch, size, ttl ms, meta ttl ms, 1 if transitions are asked for;
--       for each member: client, serial, member, 1 if it is only written and nobody is told
-- Gives for each: 1 it was not there, 0 it was, 2 a newer connection of the client is
local members, mine, users, transitions = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local incarnation, channel = ARGV[1], ARGV[2]
local results, told, n = {}, {}, open(members, users)
for i = 9, #ARGV, 4 do
  local client, serial, member = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known, its_serial = find(members, client)
  local result, position, newer = 1
  if known then
    result = its_serial > tonumber(serial) and 2 or 0
  elseif ARGV[i + 3] ~= '1' then
    -- First the event: if the line knows of a newer generation nothing has happened yet.
    position, newer = append(KEYS[3], KEYS[4], KEYS[5], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), event(JOIN, member))
    if not position then
      close(users, n, transitions, told)
      return stale(newer)
    end
  end
  if result ~= 2 then
    local entry = client .. '\0' .. serial .. ' ' .. incarnation .. '\n' .. member
    if not known then
      n = n + 1
      if count(users, user_of(member), 1) and position and ARGV[8] == '1' then
        told[#told + 1] = transition('J', n == 1, position, channel, member)
      end
    elseif known ~= entry then
      redis.call('ZREM', members, known)
      local before, after = user_of_entry(known), user_of(member)
      if before ~= after then
        -- No session does that; the counts are right all the same.
        count(users, before, -1)
        count(users, after, 1)
      end
    end
    if known ~= entry then
      redis.call('ZADD', members, 0, entry)
    end
  end
  results[#results + 1] = result
end
close(users, n, transitions, told)
redis.call('SADD', mine, channel)
redis.call('PEXPIRE', members, LIVES)
redis.call('PEXPIRE', users, LIVES)
redis.call('PEXPIRE', mine, LIVES)
return results
