-- Part of the scripts of presence: it stands behind append.lua and before each of them.
--
-- A channel's members are a sorted set whose scores are all 0, so that it is in the order of its texts:
--   client NUL serial SPACE incarnation LF member
-- The member is a v1::Member; the rest is what says whose entry it is.

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
