-- KEYS reply; ARGV lease ms. Only what is pending is renewed.

local known = redis.call('GET', KEYS[1])
if known and string.sub(known, 1, 2) == '1p' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
