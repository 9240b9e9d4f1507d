-- Before every script that reads or moves a position. The run id guards against what epoch and offset alone do not
-- see: a fail-over to a replica that lags rewinds the offset under the same epoch.

local DAY, HOUR = 86400000, 3600000

local function server_run()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- The room's epoch, offset, size, ttl and birth, of a new life where there is none or another server counted it.
local function life(meta, history, fresh, run, now)
  local found = redis.call('HMGET', meta, 'epoch', 'offset', 'size', 'ttl', 'born', 'run')
  if found[1] and found[2] and found[6] == run then
    return found
  end
  local born = whole(now)
  -- First what may be refused for want of memory, before anything has changed.
  redis.call('HSET', meta, 'epoch', fresh, 'offset', '0', 'size', '', 'ttl', '', 'born', born, 'run', run)
  redis.call('DEL', history)
  return {fresh, '0', '', '', born, run}
end

-- The numbering outlives the history, or a silent room would be reset. One that never had an event has little to lose.
local function keep(meta, found)
  local ttl = HOUR
  if found[2] ~= '0' then
    ttl = math.max(DAY, 2 * (tonumber(found[4]) or 0))
  end
  redis.call('PEXPIRE', meta, whole(ttl))
end
