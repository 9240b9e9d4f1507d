-- KEYS reply; ARGV the pending record, lease ms. Gives the record that is there, or nothing: it is the caller's.

local known = redis.call('GET', KEYS[1])
if known then
  return known
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
