-- KEYS meta, history[, key]; ARGV fresh epoch, size, ttl ms, window ms, PUBLISH or SPUBLISH, channel, body.
-- Gives "EPOCH|OFFSET".

local now = now_ms()
local found = life(KEYS[1], KEYS[2], ARGV[1], server_run(), now)
if KEYS[3] then
  local known = redis.call('GET', KEYS[3])
  if known then
    return known
  end
end

-- The first write: it is refused where memory is out, and then nothing is half-done.
local offset = whole(redis.call('HINCRBY', KEYS[1], 'offset', 1))
local size, ttl, body = ARGV[2], ARGV[3], ARGV[7]
if found[3] ~= size or found[4] ~= ttl then
  redis.call('HSET', KEYS[1], 'size', size, 'ttl', ttl)
end
if size == '0' then
  if found[3] ~= '0' then
    redis.call('DEL', KEYS[2])
  end
else
  redis.call('ZADD', KEYS[2], offset, offset .. ':' .. whole(now) .. ':' .. body)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - size)
  -- A key's TTL alone would slide for ever in a busy room.
  for _ = 1, 8 do
    local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
    local stored = oldest and tonumber(string.match(oldest, '^%d+:(%d+):'))
    if not stored or stored + ttl > now then
      break
    end
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, 0)
  end
  redis.call('PEXPIRE', KEYS[2], ttl)
end
keep(KEYS[1], {found[1], offset, size, ttl})
local position = found[1] .. '|' .. offset
if KEYS[3] then
  redis.call('SET', KEYS[3], position, 'PX', ARGV[4])
end
-- Last, since it may be refused to this user: what is stored is found by the others' looks, and a copy is known.
redis.call(ARGV[5], ARGV[6], '\001e' .. position .. '|' .. body)
return position
