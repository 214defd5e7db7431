-- purge: 1 a number of keys to delete at about the most, 2 anything if only a run that has ended is
-- to go. Answers 0 all is gone | 2 it has not ended | 5 call again. The first call only marks the run,
-- so that readers who wait for events wake; of a small one that has ended nobody waits for any. The
-- header goes last.
define('purge', {'allow-oom'}, function(keys, args)
  local call, p, left = redis.call, sub(keys[1], 1, -2), tonumber(args[1])
  local h = redis.pcall('GETRANGE', keys[1], 0, HEADER - 1)
  if type(h) == 'string' and #h == HEADER and byte(h, 5) ~= PURGING then
    local state = byte(h, 5)
    local runs = state == OPEN or state == CLOSED
    if args[2] and runs then return '\2' .. char(state) end
    local segments = redis.pcall('ZCARD', p .. 's')
    if runs or type(segments) ~= 'number' or segments > 1 then
      call('SETRANGE', keys[1], 4, char(PURGING))
      redis.pcall('XADD', p .. 'e', 'MAXLEN', '~', EVENTS_MAX, '0-*', 's', char(PURGING))
      return '\5'
    end
    left = left + 4 + 3 * 65536 / 128
  end
  while left > 0 do
    local found = redis.pcall('ZRANGE', p .. 's', 0, 0)
    local k = not found.err and found[1]
    if not k then break end
    local head = redis.pcall('GETRANGE', p .. 'a:' .. k, 0, 7)
    local n = type(head) == 'string' and #head == 8 and min(take('>I4', head, 5), 65536) or 65536
    local gone = {p .. 'x:' .. k, p .. 'a:' .. k}
    for c = 0, floor((n - 1) / 128) do gone[#gone + 1] = p .. 'd:' .. k .. ':' .. c end
    for b = 0, floor((n - 1) / 64) do gone[#gone + 1] = p .. 'r:' .. k .. ':' .. b end
    call('UNLINK', unpack(gone))
    call('ZREM', p .. 's', k)
    left = left - 4 - 3 * n / 128
  end
  if left <= 0 then return '\5' end
  local blobs = redis.pcall('HKEYS', p .. 'bs')
  if not blobs.err then
    for _, digest in ipairs(blobs) do call('UNLINK', p .. 'b:' .. digest) end
  end
  local gone = {'m', 's', 'o', 'l', 'q', 'f', 'c', 'e', 'k', 'bs', 'h'}
  for i, key in ipairs(gone) do gone[i] = p .. key end
  call('UNLINK', unpack(gone))
  return '\0'
end)
