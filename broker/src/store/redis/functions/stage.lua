-- stage: 1 fixed (segment u32, n u32, digest 16) 2 pending column 3 consumers column 4.. chunks.
-- What is active already is answered so even when the run takes no more: the answer may have been lost.
define('stage', {}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local k, n, p = take('>I4I4', args[1])
  local digest = sub(args[1], p)
  local a = load_arena(r, k)
  if a and a.active and a.digest == digest then return '\0' end
  if not (r.state == OPEN or k >= SPAWNED and is_running(r)) then return '\2' .. char(r.state) end
  if n == 0 or n > 65536 or #args[2] ~= 4 * n or #args[3] ~= 4 * n then return '\4\1' end
  if #args - 3 ~= floor((n + 127) / 128) then return '\4\2' end
  if a then
    if a.digest ~= digest then return '\3' end
    if a.cursor > 0 then return '\0' end
  end
  redis.call('ZADD', r.prefix .. 's', -1 - k, k)
  for i = 4, #args do redis.call('SET', r.prefix .. 'd:' .. k .. ':' .. i - 4, args[i]) end
  redis.call('SET', r.prefix .. 'a:' .. k, 'BHA0' .. pack('>I4I4', n, 0) .. '\0\0\0\0' .. digest
    .. rep('\0', 32 + n) .. args[2] .. args[3] .. rep('\0', 8 * n))
  if k < SPAWNED and k >= r.segments then
    r.segments = k + 1
    save_run(r)
  end
  return '\0'
end)

-- unstage: 1 segment u32.
define('unstage', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  local k = take('>I4', args[1])
  local a = load_arena(r, k)
  if a and not a.active then
    for i = 0, floor((a.n + 127) / 128) - 1 do redis.call('UNLINK', r.prefix .. 'd:' .. k .. ':' .. i) end
    redis.call('UNLINK', a.key)
    redis.call('ZREM', r.prefix .. 's', k)
  end
  return '\0'
end)

-- reserve: a number for a segment that a task submits: 0 and its number u32.
define('reserve', {}, function(keys)
  local r, no = load_run(keys[1])
  if not r then return no end
  r.spawned = r.spawned + 1
  save_run(r)
  return '\0' .. pack('>I4', SPAWNED + r.spawned - 1)
end)
