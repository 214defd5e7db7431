-- The audit, in builds for tests alone: while the stream <namespace>bh:audit is there, every call that
-- may change a run adds an entry to it: op, run (its header's key), ms, wrote (0 | 1: whether
-- anything stored of the run is different), reply, and args (length u32 and bytes of each; without
-- the values of results and the descriptors of segments).

-- How many arguments are written down, where not all are.
local SHORT = {commit = 11, stage = 1}
-- Calls that concern no task.
local SILENT = {keep_alive = true, lock = true, put_blob = true}

-- A hash in the order of its fields: its own order may change when it is merely read.
local function ordered(key)
  local all, rows = redis.call('HGETALL', key), {}
  for p = 1, #all, 2 do rows[#rows + 1] = all[p] .. '\0' .. all[p + 1] end
  table.sort(rows)
  return concat(rows, '\0')
end

-- Everything that is stored of a run but for when its client was last seen, and whether leases and
-- due times are looked for.
local function trace(key)
  local p, call = sub(key, 1, -2), redis.call
  local h = call('GET', key)
  if not h then return '' end
  local parts = {sub(h, 5, 6), sub(h, 9, 40), sub(h, 49, 56)}
  for _, name in ipairs{'m', 'o', 'l', 'f', 'c'} do parts[#parts + 1] = ordered(p .. name) end
  parts[#parts + 1] = concat(call('ZRANGE', p .. 'q', 0, -1, 'WITHSCORES'), ' ')
  parts[#parts + 1] = call('XLEN', p .. 'e')
  for _, k in ipairs(call('ZRANGE', p .. 's', 0, -1)) do
    local arena = call('GET', p .. 'a:' .. k) or ''
    parts[#parts + 1] = arena
    parts[#parts + 1] = ordered(p .. 'x:' .. k)
    local n = #arena >= 8 and take('>I4', arena, 5) or 0
    for b = 0, floor((n - 1) / 64) do parts[#parts + 1] = ordered(p .. 'r:' .. k .. ':' .. b) end
  end
  return redis.sha1hex(concat(parts, '\1'))
end

local function packed(name, args)
  local out = {}
  for n = 1, min(#args, SHORT[name] or #args) do out[n] = pack('>I4', #args[n]) .. args[n] end
  return concat(out)
end

local plainly = define
local function define(name, flags, body)
  local reads = SILENT[name]
  for n = 1, #flags do reads = reads or flags[n] == 'no-writes' end
  if reads then return plainly(name, flags, body) end
  plainly(name, flags, function(keys, args)
    local key = keys[1]
    local at = sub(key, -3) == '}:h' and find(key, '{', 1, true)
    local stream = at and sub(key, 1, at - 1) .. 'audit'
    if not stream or redis.call('EXISTS', stream) == 0 then return body(keys, args) end
    local before = trace(key)
    local reply = body(keys, args)
    local wrote = trace(key) == before and '0' or '1'
    redis.call('XADD', stream, '*', 'op', name, 'run', key, 'ms', now_ms(), 'wrote', wrote,
      'reply', reply, 'args', packed(name, args))
    return reply
  end)
end
