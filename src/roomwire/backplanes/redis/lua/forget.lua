-- KEYS reply. Only what is pending is forgotten: a reply that is there may be of another copy, on another node.

local known = redis.call('GET', KEYS[1])
if known and string.sub(known, 1, 2) == '1p' then
  redis.call('DEL', KEYS[1])
end
