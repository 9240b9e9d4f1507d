-- KEYS slots of each user; ARGV lease ms, limit or "", 1 where expired slots count, then for each user a count, and
-- client, connection, node of so many. Gives the place of each that is lost, and 1 where its own client holds it.

local now, order = clock()
local expires, limit, at, place, lost = now + tonumber(ARGV[1]), tonumber(ARGV[2]), 4, 0, {}
for i = 1, #KEYS do
  local left = count(KEYS[i], now, ARGV[3] == '1')
  local number = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, number do
    local client, connection, node = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local first, _, held_by = slot(redis.call('HGET', KEYS[i], client))
    if held_by and held_by ~= connection then
      lost[#lost + 1] = place
      lost[#lost + 1] = 1
    elseif not held_by and limit and left >= limit then
      lost[#lost + 1] = place
      lost[#lost + 1] = 0
    else
      if not held_by then
        left = left + 1
      end
      hold(KEYS[i], client, first or order, expires, connection, node)
    end
    place = place + 1
  end
  redis.call('PEXPIRE', KEYS[i], KEPT)
end
return lost
