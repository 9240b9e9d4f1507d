-- The slots of a user: a hash of client to "1|ORDER|EXPIRY|CONNECTION|NODE". They are counted, never a counter kept:
-- that would drift when a node dies between two calls.

local KEPT = '600000'

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), string.format('%.0f', time[1] * 1000000 + time[2])
end

local function slot(entry)
  return string.match(entry or '', '^1|(%d+)|(%d+)|([^|]*)|([^|]*)$')
end

local function hold(slots, client, order, expires, connection, node)
  local entry = table.concat({'1', order, string.format('%.0f', expires), connection, node}, '|')
  redis.call('HSET', slots, client, entry)
end

-- Drops what has expired, unless it is to be counted all the same; gives how many are left, and the oldest.
local function count(slots, now, unsettled)
  local entries, left, oldest, oldest_order = redis.call('HGETALL', slots), 0, nil, nil
  for i = 1, #entries, 2 do
    local order, expires = slot(entries[i + 1])
    if not order or (tonumber(expires) <= now and not unsettled) then
      redis.call('HDEL', slots, entries[i])
    else
      left = left + 1
      if not oldest or tonumber(order) < oldest_order then
        oldest, oldest_order = entries[i], tonumber(order)
      end
    end
  end
  return left, oldest
end
