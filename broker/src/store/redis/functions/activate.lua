-- activate: 1 fixed (segment u32, cursor u32, last u8, digest 16) 2 edges (segment u32, index u16
-- of the input, index u16 of the consumer)*. Answers 0 and: 0 cursor u32, more to come; 1 ranges of
-- ready tasks, active now; 2, active before.
define('activate', {}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local k, cursor, last, p = take('>I4I4B', args[1])
  local a, digest = load_arena(r, k), sub(args[1], p)
  if k < SPAWNED and a and a.active and a.digest == digest then return '\0\2' end
  if r.state ~= OPEN or k >= SPAWNED then return '\2' .. char(r.state) end
  if not a then return '\4\3' end
  if a.digest ~= digest then return '\3' end
  if a.cursor ~= cursor then return '\0\0' .. pack('>I4', a.cursor) end
  local count = #args[2] / 8
  if count > 500 then return '\4\4' end
  local edges = {}
  for e = 1, count do
    local j, i, to = take('>I4I2I2', args[2], 8 * e - 7)
    local from = j < k and active(r, j)
    if not from or i >= from.n or to >= a.n then return '\4\5' end
    redis.call('HLEN', r.prefix .. 'x:' .. j)
    edges[e] = {from, i, to}
  end
  redis.call('ZCARD', r.prefix .. 's')
  for e = 1, count do
    local from, i, to = unpack(edges[e])
    connect(r, from, i, a, to, state_at(from, i) % 8 == 0)
  end
  redis.call('SETRANGE', a.key, 8, pack('>I4', cursor + count))
  if last == 0 then return '\0\0' .. pack('>I4', cursor + count) end
  local ready = start_segment(r, a)
  save_run(r)
  return '\0\1' .. ready
end)
