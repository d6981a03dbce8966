-- Orders of people: cancel, prioritise, retry, forget.

local function cancel(job)
  forget_checkpoint(job.id)
  if job.state == 'running' then
    call('XADD', index('control'), 'MAXLEN', '~', 1000, '*', 'cancel', job.id, 'attempt', job.attempt)
  end
  move(job, 'cancelled')
end

-- Workers learn of it from the control stream and drop the jobs. Returns a flat list: for each job its id, the state
-- before, its model and what is of no more use: the checkpoint, and whether somebody has looked, so that there may be a
-- preview.
function operations.cancel(jobs)
  local told = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local job, why = named(id)
    local before = job and job.state or (why == GONE and 'missing' or 'damaged')
    if job and not OVER[before] then cancel(job) end
    job = job or {}
    for _, value in ipairs({ id, before, job.model or '', job.checkpoint or '', job.previews_until and 1 or 0 }) do
      told[#told + 1] = value
    end
  end
  return told
end

-- wanted: JSON list of [id, priority]. Only queued jobs change. Their messages stay as they are: whichever comes next, the
-- claim goes by the turns. Returns a flat list: for each job its id, its state, and the priorities it had and has.
function operations.prioritise(wanted)
  local told = {}
  for _, one in ipairs(cjson.decode(wanted)) do
    local id, priority = one[1], one[2]
    local job, why = named(id)
    local before = job and job.priority or ''
    if job and job.state == 'queued' and before ~= priority then
      job.priority = priority
      set(id, 'priority', priority)
      wait(job)
      tell(id, 'state', 'queued', 'why', 'prioritised')
    end
    local state = job and job.state or (why == GONE and 'missing' or 'damaged')
    for _, value in ipairs({ id, state, before, job and job.priority or '' }) do told[#told + 1] = value end
  end
  return told
end

-- The first `limit` ids that the index of a state names; what it names wrongly is taken out of it first.
function operations.first(state, limit)
  local ids = {}
  for _, id in ipairs(call('ZRANGE', index('state:' .. state), 0, limit - 1)) do
    local job = examined(id)
    if job and job.state == state then
      ids[#ids + 1] = id
    elseif job then
      put_right(job)
    end
  end
  return { ids, call('ZCARD', index('state:' .. state)) }
end

-- Returns the state before; failed and cancelled jobs are queued again with a clean slate of deaths.
function operations.retry(id)
  local job, why = named(id)
  if not job then return why == GONE and 'missing' or 'damaged' end
  local before = job.state
  if before == 'failed' or before == 'cancelled' then
    set(id, 'deaths', 0, 'lapses', '', 'lapsed_at', '', 'error', '', 'finished', '', 'warnings', '')
    move(job, 'queued', 'why', 'retried')
  end
  return before
end

-- Removes every trace of jobs (a JSON list of ids) that are over, or of which there is no telling.
-- Returns those that were forgotten; what is queued or running is not.
function operations.forget(jobs)
  local forgotten = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local job = read(id)
    if is_id(id) and not (job and not OVER[job.state]) then
      local batch = string.match(id, '^[^-]+')
      take_out(id)
      redis.call('DEL', job_key(id))
      call('ZREM', index('jobs'), id)
      call('HDEL', index('quarantine'), id)
      call('ZREM', index('batch:' .. batch), id)
      if call('ZCARD', index('batch:' .. batch)) == 0 then call('ZREM', index('batches'), batch) end
      forgotten[#forgotten + 1] = id
    end
  end
  return forgotten
end

-- One event for all of the jobs (a JSON list of ids), of none of them by name: those who follow a job need not hear it.
function operations.tell_gone(jobs)
  tell('', 'gone', jobs)
end

-- Up to `limit` jobs that have been in one of the states (a JSON list; they are over) for `age` ms.
function operations.expired(states, age, limit)
  local found = {}
  for _, state in ipairs(cjson.decode(states)) do
    for _, id in ipairs(call('ZRANGEBYSCORE', index('state:' .. state), '-inf', now - age, 'LIMIT', 0, limit)) do
      local job = #found < tonumber(limit) and examined(id)
      if job and job.state == state then
        found[#found + 1] = id
      elseif job then
        put_right(job)
      end
    end
  end
  return found
end

