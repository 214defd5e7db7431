-- relocate: an argument for each result: segment u32, index u16, generation u8, locator before 8,
-- locator from now on 8, record. Answers 0 and for each: 1 done | 0 it is somewhere else by now.
define('relocate', {'allow-oom'}, function(keys, args)
  local r, no = load_run(keys[1])
  if not r then return no end
  for _, arg in ipairs(args) do
    local k, i = take('>I4I2', arg)
    load_arena(r, k)
    redis.call('HLEN', bucket(r, k, i))
  end
  local out = {'\0'}
  for n, arg in ipairs(args) do
    local k, i, generation, from, to, p = take('>I4I2Bc8c8', arg)
    local a = active(r, k)
    local moved = a and i < a.n and state_at(a, i) == 16 * generation + 1
    if moved then
      local at = a.loc + 8 * i
      local now = redis.call('GETRANGE', a.key, at, at + 7)
      moved = now == from or now == to
      if moved then
        note_records(a)
        redis.call('SETRANGE', a.key, at, to)
        redis.call('HSET', bucket(r, k, i), i, sub(arg, p))
      end
    end
    out[n + 1] = moved and '\1' or '\0'
  end
  return concat(out)
end)
