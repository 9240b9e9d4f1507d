-- KEYS meta, history of each room; ARGV fresh epoch. Gives "EPOCH|OFFSET" of each.

local now, run, tops = now_ms(), server_run(), {}
for i = 1, #KEYS, 2 do
  local found = life(KEYS[i], KEYS[i + 1], ARGV[1], run, now)
  keep(KEYS[i], found)
  tops[#tops + 1] = found[1] .. '|' .. found[2]
end
return tops
