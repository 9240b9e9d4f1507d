-- Leases: a sorted set of who, scored by the expiry in ms of the server's clock, and a hash of who to
-- "1|SINCE|CONNECTION|INFO". Both keys outlive the leases, since a node that was cut off comes back to them.

local KEPT = '600000'

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), string.format('%.0f', time[1] * 1000000 + time[2])
end

local function whole(number)
  return string.format('%.0f', number)
end

local function record(entry)
  return string.match(entry or '', '^1|(%d+)|([^|]*)|(.*)$')
end

local function hold(leases, infos, who, connection, info, since, expires)
  redis.call('HSET', infos, who, '1|' .. since .. '|' .. connection .. '|' .. info)
  redis.call('ZADD', leases, whole(expires), who)
end

local function kept(leases, infos)
  redis.call('PEXPIRE', leases, KEPT)
  redis.call('PEXPIRE', infos, KEPT)
end
