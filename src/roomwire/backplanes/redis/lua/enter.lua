-- KEYS leases, infos; ARGV lease ms, who, connection, info, PUBLISH or SPUBLISH, channel.
-- Gives the connection that held the lease until now, or "".

local now, since = clock()
local who, connection, info = ARGV[2], ARGV[3], ARGV[4]
local first, holder, known = record(redis.call('HGET', KEYS[2], who))
local expires = tonumber(redis.call('ZSCORE', KEYS[1], who) or 0)
local live = first and expires > now
hold(KEYS[1], KEYS[2], who, connection, info, live and first or since, now + tonumber(ARGV[1]))
kept(KEYS[1], KEYS[2])
if not live or known ~= info then
  redis.call(ARGV[5], ARGV[6], '\001c')
end
return holder ~= connection and holder or ''
