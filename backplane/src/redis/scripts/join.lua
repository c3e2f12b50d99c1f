-- Writes members of one channel, and tells those that were not there.
--
-- KEYS  members, channels of the incarnation; meta, list, channel of the stream of joins and leaves
-- ARGV  incarnation, channel, generation, fresh epoch, size, ttl ms, meta ttl ms;
--       for each member: client, serial, member, 1 if it is only written and nobody is told
-- Gives for each: 1 it was not there, 0 it was, 2 a newer connection of the client is
local members, mine = KEYS[1], KEYS[2]
local incarnation = ARGV[1]
local results = {}
for i = 8, #ARGV, 4 do
  local client, serial, member = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known, its_serial = find(members, client)
  local result = 1
  if known then
    result = its_serial > tonumber(serial) and 2 or 0
  elseif ARGV[i + 3] ~= '1' then
    -- First the event: if the line knows of a newer generation nothing has happened yet.
    local position, newer = append(KEYS[3], KEYS[4], KEYS[5], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]),
      tonumber(ARGV[6]), tonumber(ARGV[7]), event(JOIN, member))
    if not position then
      return stale(newer)
    end
  end
  if result ~= 2 then
    local entry = client .. '\0' .. serial .. ' ' .. incarnation .. '\n' .. member
    if known ~= entry then
      if known then
        redis.call('ZREM', members, known)
      end
      redis.call('ZADD', members, 0, entry)
    end
  end
  results[#results + 1] = result
end
redis.call('SADD', mine, ARGV[2])
redis.call('PEXPIRE', members, LIVES)
redis.call('PEXPIRE', mine, LIVES)
return results
