-- KEYS the index of a user. Gives its entries that have not expired.

local now = clock()
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(now), '+inf')
