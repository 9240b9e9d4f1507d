-- KEYS slots; ARGV client, connection.

local _, _, held_by = slot(redis.call('HGET', KEYS[1], ARGV[1]))
if held_by == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
