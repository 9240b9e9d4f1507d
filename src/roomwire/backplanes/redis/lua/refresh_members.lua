-- KEYS leases, infos of each room; ARGV lease ms, PUBLISH or SPUBLISH, then for each room its channel, a count, and
-- who, connection, info of so many. A lease that another connection holds stays its own.

local now, since = clock()
local expires, at = now + tonumber(ARGV[1]), 3
for i = 1, #KEYS, 2 do
  local channel, count, changed = ARGV[at], tonumber(ARGV[at + 1]), false
  at = at + 2
  for _ = 1, count do
    local who, connection, info = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local first, holder = record(redis.call('HGET', KEYS[i + 1], who))
    local live = first and tonumber(redis.call('ZSCORE', KEYS[i], who) or 0) > now
    if holder == connection or not live then
      hold(KEYS[i], KEYS[i + 1], who, connection, info, first or since, expires)
      changed = changed or not first
    end
  end
  kept(KEYS[i], KEYS[i + 1])
  if changed then
    redis.call(ARGV[2], channel, '\001c')
  end
end
