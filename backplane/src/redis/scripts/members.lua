-- Part of the scripts of presence: it stands behind append.lua and before each of them.
--
-- A channel's members are a sorted set whose scores are all 0, so that it is in the order of its texts:
--   client NUL serial SPACE incarnation LF member
-- The member is a v1::Member; the rest is what says whose entry it is.
--
-- Beside it a hash counts them: `n`, how many members it knows of, and for each user `u` and its name, how many of them
-- are its clients. Who has no user counts for itself and needs no field. It is kept whether or not a node asks for
-- transitions: otherwise it would be wrong for those that do.

local LIVES = 3600000 -- ms; whoever has members there makes it live on

-- One client's entry, its serial and its incarnation.
local function find(members, client)
  local entry = redis.call('ZRANGEBYLEX', members, '[' .. client .. '\0', '(' .. client .. '\1', 'LIMIT', 0, 1)[1]
  if not entry then
    return nil
  end
  local serial, incarnation = string.match(entry, '^(%d+) (%x+)\n', #client + 2)
  return entry, tonumber(serial), incarnation
end

local function field(tag, bytes)
  return tag .. varint(#bytes) .. bytes
end

-- An envelope (node.proto) whose payload is a PresenceEvent: JOIN is its field 1, LEAVE its field 2.
local JOIN, LEAVE = '\10', '\18'
local function event(kind, member)
  return field('\10', field('\26', field(kind, member)))
end

-- A field's bytes, and where the next one begins.
local function read(bytes, at)
  local length, scale, byte = 0, 1
  repeat
    byte = string.byte(bytes, at) or 0
    length, scale, at = length + byte % 128 * scale, scale * 128, at + 1
  until byte < 128
  return string.sub(bytes, at, at + length - 1), at + length
end

-- Field 2 of a v1::Member, behind the client.
local function user_of(member)
  local at = 1
  if string.byte(member, at) == 10 then
    local _, next = read(member, at + 1)
    at = next
  end
  if string.byte(member, at) == 18 then
    return (read(member, at + 1))
  end
end

local function user_of_entry(entry)
  local at = string.match(entry, '^[^%z]+%z%d+ %x+\n()')
  return at and user_of(string.sub(entry, at))
end

-- One more client of the user, or one less. True if it is the first, or was the last.
local function count(users, user, by)
  if not user then
    return true
  end
  local now = redis.call('HINCRBY', users, 'u' .. user, by)
  if now <= 0 then
    redis.call('HDEL', users, 'u' .. user)
  end
  return now == (by > 0 and 1 or 0)
end

-- How many members there are, counted. A hash that says otherwise was lost, or they were: it is made again.
local function open(members, users)
  local n = redis.call('ZCARD', members)
  if (tonumber(redis.call('HGET', users, 'n') or nil) or 0) ~= n then
    redis.call('DEL', users)
    for _, entry in ipairs(redis.call('ZRANGE', members, 0, -1)) do
      count(users, user_of_entry(entry), 1)
    end
    redis.call('HSET', users, 'n', n)
    redis.call('PEXPIRE', users, LIVES)
  end
  return n
end

-- What a node is to be told: whether a user joined ('J') or left ('L'), 1 if the channel was empty before or is now, and
-- when; where that stands; on which channel; and the member. The position makes each another one.
local now
local function transition(kind, of_channel, position, channel, member)
  if not now then
    local time = redis.call('TIME')
    now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  end
  return kind .. (of_channel and '1 ' or '0 ') .. now .. ' ' .. position .. ' ' .. channel .. '\n' .. member
end

-- The other end of `open`. Transitions stand in a set until a node has told them: who does not hear the answer finds them
-- there, and whoever buries a dead node finds what that one had not told.
local function close(users, n, transitions, told)
  if n > 0 then
    redis.call('HSET', users, 'n', n)
  else
    redis.call('DEL', users)
  end
  if #told > 0 then
    redis.call('SADD', transitions, unpack(told))
    redis.call('PEXPIRE', transitions, LIVES)
  end
end
