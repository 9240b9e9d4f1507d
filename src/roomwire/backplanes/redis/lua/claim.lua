-- KEYS slots; ARGV lease ms, client, connection, node, limit, 1 to evict, 1 where expired slots count.
-- Gives 0 where it is refused, else 1, and the client, connection and node that lost a slot to it.

local now, order = clock()
local client, connection = ARGV[2], ARGV[3]
local left, oldest = count(KEYS[1], now, ARGV[7] == '1')
local _, _, held_by, held_on = slot(redis.call('HGET', KEYS[1], client))
local answer = {1}
if held_by then
  if held_by ~= connection then
    answer = {1, client, held_by, held_on}
  end
elseif left >= tonumber(ARGV[5]) then
  if ARGV[6] ~= '1' or not oldest then
    return {0}
  end
  local _, _, loser, node = slot(redis.call('HGET', KEYS[1], oldest))
  answer = {1, oldest, loser, node}
end
hold(KEYS[1], client, order, now + tonumber(ARGV[1]), connection, ARGV[4])
if not held_by and answer[2] then
  redis.call('HDEL', KEYS[1], oldest)
end
redis.call('PEXPIRE', KEYS[1], KEPT)
return answer
