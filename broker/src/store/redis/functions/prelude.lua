-- What all functions share. Keys of a run have one prefix, which ends in ':' (KEYS[1] is its 'h'):
--   h        header: 'BHR1' state u8 policy u8 attempts u8 0 tasks u64 finished u64 failed u64
--            spawned u32 segments u32 client_until_ms u64 ended_ms u64 client_lease_ms u64
--            retention_ms u64 digest 32
--   m        hash: name, header, reason
--   s        zset: segments; score = number when active, -1 - number when only staged
--   a:<k>    arena: 'BHA0' staged | 'BHA1' active, n u32, cursor u32, later u8, records u8, 0 0, digest 16,
--            zeros to 64; then columns: state u8*n, pending u32*n, consumers u32*n, locator 8*n
--   d:<k>:<c> descriptor chunk          r:<k>:<index / 64> hash: index -> value, record or error
--   x:<k>    hash: index -> consumers in later segments, 6 bytes each
--   o        hash: owner:sequence -> ready (see `put_ready`)
--   l q f c  leases (hash), due times (zset), failed attempts (hash), suspects with their crashes
--            (hash), by task of 6 bytes
--   e        stream of events           bs, b:<hex>  blobs: lengths of the whole ones, bytes
-- A function checks everything before its first write: an error midway would not be undone. It
-- answers with a string, first a code: 0 done, 1 no such run, 2 refused by the run's state (which
-- follows), 3 another content, 4 malformed (a reason follows); the rest is the function's own.

-- Set by the first call: the server lends its libraries to functions that run, not while it loads
-- them.
local pack, take, sub, byte, char, rep, find, concat, floor, ceil, min
local function borrow()
  pack, take = struct.pack, struct.unpack
  sub, byte, char, rep, find = string.sub, string.byte, string.char, string.rep, string.find
  concat, floor, ceil, min = table.concat, math.floor, math.ceil, math.min
end

local OPEN, CLOSED, DONE, FAILED, CANCELLED, PURGING = 1, 2, 3, 4, 5, 6
local PINNED, KEPT = 2147483648, 1073741824
local SPAWNED = 2147483648
local HEADER = 104
local EVENTS_MAX = 65536
local NONE = '\0\0\0\0\0\0\0\0'

-- Formats of columns, remembered while they are short.
local remembered = {}
local function words(n)
  local format = remembered[n]
  if not format then
    format = '>' .. rep('I4', n)
    if n <= 512 then remembered[n] = format end
  end
  return format
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The run, or nil and the answer that says why not. A run that is being deleted is none.
local function load_run(key)
  local h = redis.call('GETRANGE', key, 0, HEADER - 1)
  if h == '' then return nil, '\1' end
  if #h ~= HEADER or sub(h, 1, 4) ~= 'BHR1' then error('damaged: header of a run') end
  local r = {key = key, prefix = sub(key, 1, -2), arenas = {}}
  r.state, r.policy, r.attempts = byte(h, 5, 7)
  if r.state == PURGING then return nil, '\1' end
  r.tasks, r.finished, r.failed, r.spawned, r.segments, r.client_until, r.ended =
    take('>I8I8I8I4I4I8I8', h, 9)
  r.header = h
  return r
end

local function save_run(r)
  redis.call('SETRANGE', r.key, 4, pack('>BBBBI8I8I8I4I4I8I8', r.state, r.policy, r.attempts, 0,
    r.tasks, r.finished, r.failed, r.spawned, r.segments, r.client_until, r.ended))
end

local function is_running(r)
  return r.state == OPEN or r.state == CLOSED
end

-- The arena of a segment, staged or active; false when there is none.
local function load_arena(r, k)
  local a = r.arenas[k]
  if a ~= nil then return a end
  local key = r.prefix .. 'a:' .. k
  local h = redis.call('GETRANGE', key, 0, 31)
  if h == '' then
    a = false
  else
    local magic = sub(h, 1, 4)
    if magic ~= 'BHA1' and magic ~= 'BHA0' then error('damaged: arena of segment ' .. k) end
    local n, cursor = take('>I4I4', h, 5)
    a = {key = key, k = k, n = n, cursor = cursor, active = magic == 'BHA1',
      later = byte(h, 13) == 1, records = byte(h, 14) == 1, digest = sub(h, 17, 32),
      st = 64, pend = 64 + n, cons = 64 + 5 * n, loc = 64 + 9 * n}
  end
  r.arenas[k] = a
  return a
end

local function active(r, k)
  local a = load_arena(r, k)
  return a and a.active and a
end

local function state_at(a, i)
  return byte(redis.call('GETRANGE', a.key, a.st + i, a.st + i))
end

local function word_at(a, column, i)
  local at = column + 4 * i
  return (take('>I4', redis.call('GETRANGE', a.key, at, at + 3)))
end

local function put_word(a, column, i, value)
  redis.call('SETRANGE', a.key, column + 4 * i, pack('>I4', value))
end

local function bucket(r, k, i)
  return r.prefix .. 'r:' .. k .. ':' .. floor(i / 64)
end

local function forward_target(r, a, i)
  return redis.call('HGET', bucket(r, a.k, i), i)
end

-- Runs of zero words in a column, as pairs of first and last index, u16 each.
local function zero_words(column)
  local out, p = {}, 1
  while true do
    local at = find(column, '\0\0\0\0', p, true)
    if not at then return concat(out) end
    local first = ceil((at - 1) / 4)
    local start = 4 * first + 1
    if start ~= at and sub(column, start, start + 3) ~= '\0\0\0\0' then
      p = start
    else
      local stop = find(column, '%Z', start) or #column + 1
      local last = floor((stop - 1) / 4) - 1
      out[#out + 1] = pack('>I2I2', first, last)
      p = 4 * last + 5
    end
  end
end

-- Makes a staged segment active; its ready tasks as ranges.
local function start_segment(r, a)
  redis.call('SETRANGE', a.key, 0, 'BHA1')
  redis.call('ZADD', r.prefix .. 's', a.k, a.k)
  a.active = true
  r.tasks = r.tasks + a.n
  return zero_words(redis.call('GETRANGE', a.key, a.pend, a.pend + 4 * a.n - 1))
end

-- Ready tasks are answered and written down as: count u16 of those that are forwarded or not of
-- generation 0, these (task 6, generation u8, forwarded u8, target 6), then groups of the others:
-- segment u32, count u16, indexes u16; with the top bit of the count set, pairs of first and last
-- index instead.
local function put_ready(special, groups)
  if #special == 0 and #groups == 0 then return '' end
  return pack('>I2', #special) .. concat(special) .. concat(groups)
end

-- Notes a ready task by its state byte and target (false when not forwarded).
local function note_ready(special, groups, k, i, b, target)
  if b == 0 then
    groups[#groups + 1] = pack('>I4I2I2', k, 1, i)
  else
    special[#special + 1] = pack('>I4I2BB', k, i, floor(b / 16), target and 1 or 0)
      .. (target or '\0\0\0\0\0\0')
  end
end

local function put_ranges(groups, k, ranges)
  for p = 1, #ranges, 65532 do
    local part = sub(ranges, p, p + 65531)
    groups[#groups + 1] = pack('>I4I2', k, 32768 + #part / 4) .. part
  end
end

-- Deletes what is stored beside the freed tasks of a span.
local function drop_records(r, a, first, mask, locators)
  local stored = {}
  for i = 1, #mask do
    if byte(mask, i) ~= 255 and byte(locators, 8 * i - 7) >= 9 then
      local key = bucket(r, a.k, first + i - 1)
      local fields = stored[key]
      if not fields then
        fields = {}
        stored[key] = fields
      end
      fields[#fields + 1] = first + i - 1
    end
  end
  -- A bucket of a wrong type holds nothing worth keeping.
  for key, fields in pairs(stored) do redis.pcall('HDEL', key, unpack(fields)) end
end

-- All places of a span.
local ALL = false

-- Frees those of `zeros` (places in the span from `first`) which are done: their consumer word is
-- zero. Appends to `out`: segment u32, first u16, span u16, state bytes (255 where nothing was
-- freed), locators.
local function free_span(r, a, first, span, zeros, out)
  local call = redis.call
  local s = call('GETRANGE', a.key, a.st + first, a.st + first + span - 1)
  local mask, states
  if (zeros == ALL or #zeros == span) and s == rep('\1', span) then
    mask, states = s, rep('\4', span)
  else
    local old, new, freed = {byte(s, 1, span)}, {byte(s, 1, span)}, {}
    local some = false
    for i = 1, span do freed[i] = 255 end
    for i = 1, zeros == ALL and span or #zeros do
      local z = zeros == ALL and i or zeros[i]
      local b = old[z]
      if b % 8 == 1 then
        some = true
        freed[z] = b
        new[z] = b - b % 16 + 4
      end
    end
    if not some then return end
    mask, states = char(unpack(freed, 1, span)), char(unpack(new, 1, span))
  end
  local at = a.loc + 8 * first
  local l = call('GETRANGE', a.key, at, at + 8 * span - 1)
  call('SETRANGE', a.key, a.st + first, states)
  local locators = rep(NONE, span)
  if mask ~= s or states ~= rep('\4', span) then
    local parts = {}
    for i = 1, span do
      parts[i] = byte(mask, i) == 255 and sub(l, 8 * i - 7, 8 * i) or NONE
    end
    locators = concat(parts)
  end
  call('SETRANGE', a.key, at, locators)
  if a.records then drop_records(r, a, first, mask, l) end
  out[#out + 1] = pack('>I4I2I2', a.k, first, span) .. mask .. l
end

-- Adds an edge between segments, `blocks` when its input is pending.
local function connect(r, from, i, to, j, blocks)
  put_word(from, from.cons, i, word_at(from, from.cons, i) + 1)
  local key = r.prefix .. 'x:' .. from.k
  redis.call('HSET', key, i, (redis.call('HGET', key, i) or '') .. pack('>I4I2', to.k, j))
  if not from.later then
    from.later = true
    redis.call('SETRANGE', from.key, 12, '\1')
  end
  if blocks then put_word(to, to.pend, j, word_at(to, to.pend, j) + 1) end
end

-- The terminal state is written once, by whoever makes the last count.
local function end_run(r, state, reason)
  local p = r.prefix
  r.state = state
  r.ended = now_ms()
  if reason then redis.call('HSETNX', p .. 'm', 'reason', reason) end
  redis.call('UNLINK', p .. 'l', p .. 'q', p .. 'o')
  redis.call('XADD', p .. 'e', 'MAXLEN', '~', EVENTS_MAX, '0-*', 's', char(state))
end

local function end_if_finished(r)
  if r.state == CLOSED and r.finished == r.tasks then
    end_run(r, r.failed == 0 and DONE or FAILED, nil)
  end
end

-- Raises when one of the keys that ending a run writes has a wrong type.
local function check_ending(r)
  redis.call('XLEN', r.prefix .. 'e')
  redis.call('HLEN', r.prefix .. 'm')
end

-- From the first record on, freeing looks for them.
local function note_records(a)
  if not a.records then
    a.records = true
    redis.call('SETRANGE', a.key, 13, '\1')
  end
end

local function define(name, flags, body)
  local function callback(keys, args)
    if not pack then borrow() end
    return body(keys, args)
  end
  redis.register_function{function_name = 'bh_v1_' .. name, callback = callback, flags = flags}
end
