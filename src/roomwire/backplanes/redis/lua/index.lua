-- KEYS the index of each user; ARGV lease ms, then for each user a count and so many entries "ROOM:CLIENT:CONNECTION".

local now = clock()
local expires, at = whole(now + tonumber(ARGV[1])), 2
for i = 1, #KEYS do
  local count = tonumber(ARGV[at])
  for j = at + 1, at + count do
    redis.call('ZADD', KEYS[i], expires, ARGV[j])
  end
  at = at + 1 + count
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', whole(now))
  redis.call('PEXPIRE', KEYS[i], KEPT)
end
