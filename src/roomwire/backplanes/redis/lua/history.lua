-- KEYS meta, history; ARGV fresh epoch, epoch, offset, limit. Gives "EPOCH|OFFSET", a reason or "", then the members.

local now = now_ms()
local found = life(KEYS[1], KEYS[2], ARGV[1], server_run(), now)
keep(KEYS[1], found)
local top, since = tonumber(found[2]), tonumber(ARGV[3])
local page = {found[1] .. '|' .. found[2], ''}
if found[1] ~= ARGV[2] then
  page[2] = 'epoch'
elseif since > top then
  page[2] = 'fork'
elseif since < top then
  local count = math.min(tonumber(ARGV[4]), top - since)
  local members = redis.call('ZRANGEBYSCORE', KEYS[2], whole(since + 1), whole(since + count))
  local stored = members[1] and tonumber(string.match(members[1], '^%d+:(%d+):'))
  -- Fewer than were asked for: trimmed, expired or evicted. The first one is the oldest.
  if #members < count or stored + tonumber(found[4]) <= now then
    page[2] = found[3] == '0' and 'no_history' or 'too_old'
  else
    for i = 1, #members do
      page[i + 2] = members[i]
    end
  end
end
return page
