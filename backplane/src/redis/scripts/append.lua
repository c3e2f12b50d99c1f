-- Part of the scripts that publish with history: it stands before each of them.

local function varint(number)
  local bytes = ''
  while number >= 128 do
    bytes = bytes .. string.char(number % 128 + 128)
    number = math.floor(number / 128)
  end
  return bytes .. string.char(number)
end

-- Gives a publication its place on a line of offsets, keeps it and publishes it. Returns its position; or nothing, and
-- the generation that the line knows of, if that is newer than ours: then nothing has happened.
local function append(meta, list, channel, generation, fresh, size, ttl, meta_ttl, envelope)
  local m = redis.call('HMGET', meta, 'n', 'e', 'o')
  local known, epoch, offset = tonumber(m[1] or nil), m[2], tonumber(m[3] or nil)
  if generation < 1 then
    return nil, known or 0 -- it is not known yet: without it nothing is fenced
  end
  local begun = true
  if not (known and epoch and offset) then
    -- A line of its own epoch, never of one that others share: after a lost meta key offsets start again, and under
    -- an epoch that was there before they would be a lie.
    redis.call('DEL', meta, list)
    epoch, offset = fresh, 0
  elseif known > generation then
    return nil, known
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
    epoch = fresh
  else
    begun = false
  end
  offset = offset + 1
  local written = string.format('%.0f', offset)

  -- A frame: version 1, flags 1 (it has a position), varint offset, epoch, envelope. See frame.rs.
  local frame = '\1\1' .. varint(offset) .. epoch .. envelope

  -- The list first: if it is of another type nothing has happened yet.
  local length = redis.call('RPUSH', list, frame)
  if begun then
    redis.call('HSET', meta, 'n', string.format('%.0f', generation), 'e', epoch, 'o', written)
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
    redis.call('PEXPIRE', list, ttl)
    redis.call('PEXPIRE', meta, meta_ttl)
  end
  redis.call('PUBLISH', channel, frame)
  return epoch .. ':' .. written
end

local function stale(known)
  return redis.error_reply('STALE ' .. string.format('%.0f', known))
end
