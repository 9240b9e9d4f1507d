-- KEYS meta, history, leases, infos; ARGV fresh epoch, PUBLISH or SPUBLISH, channel.
-- Gives the epoch, its age in ms, then who and record of each.

local now = now_ms()
local found = life(KEYS[1], KEYS[2], ARGV[1], server_run(), now)
keep(KEYS[1], found)
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now), 'LIMIT', 0, 1000)
if #lapsed > 0 then
  redis.call('ZREM', KEYS[3], unpack(lapsed))
  redis.call('HDEL', KEYS[4], unpack(lapsed))
  redis.call(ARGV[2], ARGV[3], '\001c')
end
local page = {found[1], now - (tonumber(found[5]) or 0)}
local held = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. whole(now), '+inf')
for start = 1, #held, 1000 do
  local some = {unpack(held, start, math.min(start + 999, #held))}
  local records = redis.call('HMGET', KEYS[4], unpack(some))
  for i = 1, #some do
    if records[i] then
      page[#page + 1] = some[i]
      page[#page + 1] = records[i]
    end
  end
end
return page
