-- KEYS leases, infos; ARGV who, connection, grace ms, PUBLISH or SPUBLISH, channel. Gives whether it held the lease.

local now = clock()
local _, holder = record(redis.call('HGET', KEYS[2], ARGV[1]))
if holder ~= ARGV[2] then
  return 0
end
local grace = tonumber(ARGV[3])
if grace > 0 then
  local expires = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
  if expires > now then
    redis.call('ZADD', KEYS[1], whole(now + grace), ARGV[1])
  end
else
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call(ARGV[4], ARGV[5], '\001c')
end
return 1
