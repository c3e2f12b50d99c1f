#!lua flags=no-writes
-- Part of a channel's history and where the channel stands, read at one moment.
--
-- KEYS  meta, list
-- ARGV  first offset (-1: the newest), how many at most, bytes after which to stop
-- Gives { epoch, offset, boundaries, length of the list, frames }, or nothing without a line
local m = redis.call('HMGET', KEYS[1], 'e', 'o', 'b')
if not (m[1] and m[2]) then
  return {}
end
local length = redis.call('LLEN', KEYS[2])
local first, limit, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local top = tonumber(m[2])
-- The last frame of the list is the one at the top; the list may be cut or gone, but it has no holes.
local oldest = top - length + 1
if first < 0 then
  first = top - limit + 1
end
if first < oldest then
  first = oldest
end
local frames, count = {}, 0
while count < limit and bytes > 0 and first + count <= top do
  local index = first - oldest + count
  local chunk = redis.call('LRANGE', KEYS[2], index, index + math.min(16, limit - count) - 1)
  for _, frame in ipairs(chunk) do
    count = count + 1
    frames[count] = frame
    bytes = bytes - #frame
  end
end
return { m[1], m[2], m[3] or '', length, frames }
