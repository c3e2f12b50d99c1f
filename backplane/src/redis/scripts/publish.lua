#!lua
-- Gives a publication its place, keeps it, and publishes it: one step, or none of it.
--
-- No flags above: Redis refuses it on a replica, with too few replicas, without memory or with a failing disk
-- *before* it runs, so those errors mean "certainly not done". A bare PUBLISH would be accepted there, and lost.
--
-- KEYS  meta, list, channel, [idempotency key]
-- ARGV  generation, fresh epoch, size, ttl ms, meta ttl ms, window of the idempotency key ms, envelope,
--       1 if something has to be written in any case, for WAIT to wait for
-- Gives { duplicate 0|1, "epoch:offset" or "" }
local meta, list, channel, idempotency = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local generation, size, ttl = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])

if idempotency then
  local first = redis.call('GET', idempotency)
  if first then
    if ARGV[8] == '1' then
      redis.call('PEXPIRE', idempotency, ARGV[6])
    end
    return { 1, first }
  end
end

local m = redis.call('HMGET', meta, 'n', 'e', 'o')
local known, epoch, offset = tonumber(m[1] or nil), m[2], tonumber(m[3] or nil)
local begun = true
if not (known and epoch and offset) then
  -- A line of its own epoch, never of one that others share: after a lost meta key offsets start again, and under
  -- an epoch that was there before they would be a lie.
  redis.call('DEL', meta, list)
  epoch, offset = ARGV[2], 0
elseif known > generation then
  return redis.error_reply('STALE ' .. string.format('%.0f', known))
elseif known < generation then
  -- Another master, or another run of it: it may have lost the end of the line. Offsets go on, the epoch does not.
  local boundaries = epoch .. ':' .. string.format('%.0f', offset)
  local count = 1
  for older in string.gmatch(redis.call('HGET', meta, 'b') or '', '[^,]+') do
    if count < 4 then
      boundaries = boundaries .. ',' .. older
      count = count + 1
    end
  end
  redis.call('HSET', meta, 'b', boundaries)
  epoch = ARGV[2]
else
  begun = false
end
offset = offset + 1
local written = string.format('%.0f', offset)

-- A frame: version 1, flags 1 (it has a position), varint offset, epoch, envelope. See frame.rs.
local varint, rest = '', offset
while rest >= 128 do
  varint = varint .. string.char(rest % 128 + 128)
  rest = math.floor(rest / 128)
end
local frame = '\1\1' .. varint .. string.char(rest) .. epoch .. ARGV[7]

-- The list first: if it is of another type nothing has happened yet.
local length = redis.call('RPUSH', list, frame)
if begun then
  redis.call('HSET', meta, 'n', ARGV[1], 'e', epoch, 'o', written)
else
  redis.call('HSET', meta, 'o', written)
end
-- Lazily, up to a quarter too many: trimming each time costs a tenth of the whole.
if length > size + math.floor(size / 4) then
  redis.call('LTRIM', list, -size, -1)
end
-- Lazily too, but by what is left and not by a count of publications: on a channel with one a minute a count would let
-- the list die under it. An eighth of the ttl is what a list may die too early.
local left = redis.call('PTTL', list)
if left > ttl or left < ttl * 0.875 then
  redis.call('PEXPIRE', list, ARGV[4])
  redis.call('PEXPIRE', meta, ARGV[5])
end
local position = epoch .. ':' .. written
if idempotency then
  redis.call('SET', idempotency, position, 'PX', ARGV[6])
end
redis.call('PUBLISH', channel, frame)
return { 0, position }
