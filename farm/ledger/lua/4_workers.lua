-- Workers: they say that they live, and hear whether operators let them take jobs.
--
-- That is said of a name and not of a process: whatever is started in the place of a worker that was told to take no more
-- jobs takes none either. `drained` has '<wish>:<since>:<until>' by name; what nobody of that name has heard for so long
-- that it has lapsed is nobody's any more.

-- What is wished of the workers of a name, and since when; or nil.
local function wish_of(name)
  local noted = call('HGET', index('drained'), name) or ''
  local wish, since, lapses = string.match(noted, '^([a-z-]+):(%d+):(%d+)$')
  since, lapses = number(since), number(lapses)
  if since and lapses and now < lapses then return wish, since end
end

local function note_wish(name, wish, since, kept)
  call('HSET', index('drained'), name, wish .. ':' .. since .. ':' .. (now + kept))
end

local function call_workers(name)
  call('XADD', index('control'), 'MAXLEN', '~', 1000, '*', 'worker', name)
end

-- A worker lives for `duration` ms from now on. Returns what is wished of those of its name, or ''; that is kept for
-- `kept` ms more.
function operations.announce(worker, name, text, duration, kept)
  call('SET', index('worker:' .. worker), text, 'PX', duration)
  local wish, since = wish_of(name)
  if not wish then return '' end
  note_wish(name, wish, since, kept)
  return wish
end

-- names: JSON list. Their workers are to take no more jobs. What has lapsed of others goes.
function operations.drain(names, wish, kept)
  local noted = call('HGETALL', index('drained'))
  for position = 1, #noted, 2 do
    if not wish_of(noted[position]) then call('HDEL', index('drained'), noted[position]) end
  end
  for _, name in ipairs(cjson.decode(names)) do
    local _, since = wish_of(name)
    note_wish(name, wish, since or now, kept)
    call_workers(name)
  end
end

-- names: JSON list. Their workers are to take jobs again. Returns those that were not to.
function operations.resume(names)
  local resumed = {}
  for _, name in ipairs(cjson.decode(names)) do
    if wish_of(name) then resumed[#resumed + 1] = name end
    call('HDEL', index('drained'), name)
    call_workers(name)
  end
  return resumed
end
