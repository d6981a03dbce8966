-- Care: what was lost is found, what is damaged is put aside, and who lives is known.

-- Whether reapers have come by all the time for `window` ms, each well before that was over again. If not, Redis
-- was away, or all of them were, and renewals may have been lost: nothing is reaped until the healthy have had
-- `window` ms without another silence to renew in. Judged here, since a reaper's own request may be what Redis was
-- too late to answer. What cannot be is taken for silence.
local function was_watched(window)
  local watch = call('HMGET', index('reaped'), 'last', 'from')
  local last, from = number(watch[1]), number(watch[2])
  call('HSET', index('reaped'), 'last', now)
  if window == 0 then return true end
  if not last or not from or now - last > window * 2 / 3 or from > now + window then
    call('HSET', index('reaped'), 'from', now + window)
    return false
  end
  return now >= from
end

local function lapse(job, deaths)
  local id, died = job.id, job.deaths + 1
  local lapses = field(id, 'lapses') or ''
  lapses = lapses .. (lapses ~= '' and ', ' or '') .. (job.worker or '?') .. ' (attempt ' .. job.attempt .. ')'
  local moments = field(id, 'lapsed_at') or ''
  moments = moments .. (moments ~= '' and ',' or '') .. job.attempt .. ':' .. now
  set(id, 'deaths', died, 'lapses', lapses, 'lapsed_at', moments)
  local to = 'queued'
  if died >= deaths then
    to = 'failed'
    forget_checkpoint(id)
    set(id, 'error', cjson.encode({
      kind = 'poison',
      message = 'it seems to bring its workers down: its lease lapsed ' .. died .. ' times, on ' .. lapses
    }))
  end
  move(job, to, 'why', 'lapsed')
  return to
end

-- Drops what is not of the type that all its readers expect.
local function make_room()
  for _, name in ipairs({ 'jobs', 'batches', 'leases', 'unpromoted' }) do call('ZCARD', index(name)) end
  for _, name in ipairs(STATES) do call('ZCARD', index('state:' .. name)) end
  for _, name in ipairs({ 'events', 'control' }) do call('XLEN', index(name)) end
  for _, model in ipairs(call('SMEMBERS', index('models'))) do call('ZCARD', index('waiting:' .. model)) end
  call('HLEN', index('quarantine'))
end

-- Requeues jobs whose lease lapsed, at most `limit`; one whose lease lapsed `deaths` times fails. Nothing is reaped
-- until reapers have watched for `window` ms (0: none is needed).
-- Returns a flat list: id, model, priority, 'queued' | 'failed', …
function operations.reap(limit, deaths, window)
  local taken = {}
  make_room()
  if not was_watched(tonumber(window)) then return taken end
  for _, id in ipairs(call('ZRANGEBYSCORE', index('leases'), '-inf', now, 'LIMIT', 0, limit)) do
    local job = examined(id)
    if job and job.state ~= 'running' then
      put_right(job)
    elseif job then
      local to = lapse(job, tonumber(deaths))
      for _, value in ipairs({ id, job.model, job.priority, to }) do taken[#taken + 1] = value end
    end
  end
  return taken
end

-- jobs: JSON list of ids that indexes or keys name. Quarantines what cannot be read, and puts indexes right.
-- Returns how many records were not in an index.
function operations.look_over(jobs)
  local indexed = 0
  for _, id in ipairs(cjson.decode(jobs)) do
    local job = examined(id)
    local lack = job and incomplete(id)
    if lack then
      quarantine(id, lack)
    elseif job then
      call('HDEL', index('quarantine'), id)
      if put_right(job) > 0 then indexed = indexed + 1 end
    end
  end
  return indexed
end

-- Jobs of a model that have waited for `age` ms since they were last published, marked as published now; `but` is a
-- JSON list of jobs to leave out, which have a message still. Returns a flat list: id, priority, …
function operations.republish(model, age, limit, but)
  local waiting = index('waiting:' .. model)
  local left_out, has_message = cjson.decode(but), {}
  for _, id in ipairs(left_out) do has_message[id] = true end
  local stale = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', waiting, '-inf', now - age, 'LIMIT', 0, limit + #left_out)) do
    local job = not has_message[id] and #stale < 2 * limit and examined(id)
    if job and (job.state ~= 'queued' or job.model ~= model) then
      stop_waiting(id, model)
      put_right(job)
    elseif job then
      call('ZADD', waiting, now, id)
      stale[#stale + 1] = id
      stale[#stale + 1] = job.priority
    end
  end
  return stale
end

-- Drops the messages of a model for which nothing waits: they could wake nobody up for anything.
function operations.clear(model, ...)
  if call('ZCARD', index('waiting:' .. model)) > 0 then return 0 end
  return redis.call('DEL', ...)
end

-- Keeps the first value that a name is given, until it lapses.
function operations.once(name, value, duration)
  local key = index('once:' .. name)
  local found = call('GET', key)
  if found then return found end
  redis.call('SET', key, value, 'PX', duration)
  return value
end

-- Of those of the models (a JSON list) for which jobs wait, a flat list: the name, how many jobs, for how many ms the one
-- that was submitted first has been waiting, and the sum of their priorities.
function operations.demand(models)
  local told = {}
  for _, model in ipairs(cjson.decode(models)) do
    local turns, oldest, priorities = index('turn:' .. model), now, 0
    local waiting = call('ZCARD', turns)
    if waiting > 0 then
      for level = 0, 9 do  -- a turn is a level of priority, and within that the moment of submission
        local from, to = level * 1e14, '(' .. (level + 1) * 1e14
        local first = call('ZRANGEBYSCORE', turns, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
        if first[2] then
          oldest = math.min(oldest, tonumber(first[2]) - from)
          priorities = priorities + (9 - level) * call('ZCOUNT', turns, from, to)
        end
      end
      for _, value in ipairs({ model, waiting, now - oldest, priorities }) do told[#told + 1] = value end
    end
  end
  return told
end

-- Holds a lapsing lock, so that one of many does a chore. One that would never lapse is no lock.
function operations.lock(name, holder, duration)
  local key = index('lock:' .. name)
  local has_it = call('GET', key)
  if has_it and has_it ~= holder and redis.call('PTTL', key) > 0 then return 0 end
  call('SET', key, holder, 'PX', duration)
  return 1
end

-- What is known of workers lapses by itself.
function operations.note(kind, worker, text, duration) call('SET', index(kind .. ':' .. worker), text, 'PX', duration) end

-- The bucket that the ledger belongs to, which is the first that it is given unless `anew` is 1.
function operations.tie(name, id, anew)
  local key = index('bucket')
  if anew == '1' then redis.call('DEL', key) end
  if redis.call('EXISTS', key) == 0 then redis.call('HSET', key, 'name', name, 'id', id) end
  local name_there, id_there = unpack(redis.call('HMGET', key, 'name', 'id'))
  return { name_there or '', id_there or '' }
end

function operations.depart(worker) redis.call('DEL', index('worker:' .. worker)) end

