-- The list of runs; KEYS[1] is the list, the score of a run when it was listed.

-- list: 1 the run.
define('list', {}, function(keys, args)
  redis.call('ZADD', keys[1], 'NX', now_ms(), args[1])
  return '\0'
end)

-- Names of runs; KEYS[1] is the name's own key, its value run 16 and digest 32.

-- rebind: 1 what was read 2 what to write instead. Answers 0 done | 3 it reads differently.
define('rebind', {}, function(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then return '\3' end
  redis.call('SET', keys[1], args[2])
  return '\0'
end)

-- unbind: 1 the run. Deletes the name when it is still this run's.
define('unbind', {'allow-oom'}, function(keys, args)
  local value = redis.call('GET', keys[1])
  if value and sub(value, 1, 16) == args[1] then redis.call('UNLINK', keys[1]) end
  return '\0'
end)
