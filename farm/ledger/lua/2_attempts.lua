-- Attempts: a job is created, claimed, kept, and brought to an end by the worker that holds it.

-- The last attempt that may have been made at a job, by what the bucket and what is left of its record say.
local function last_attempt(job)
  local left = redis.pcall('HGET', job_key(job.id), 'attempt')
  local before = not is_of_another_kind(left) and left and number(left) or 0
  if before < job.attempt or before > 1e8 then return job.attempt end
  return before == 0 and 0 or GENERATION * (1 + math.floor(before / GENERATION))
end

-- The priority that a job had last: it may have been given another one after it was submitted.
local function last_priority(job)
  local left = redis.pcall('HGET', job_key(job.id), 'priority')
  local before = not is_of_another_kind(left) and left and number(left)
  return before and before <= 9 and before or job.priority
end

local function record(job)
  local attempt, priority = last_attempt(job), last_priority(job)
  redis.call('DEL', job_key(job.id))
  set(job.id, 'batch', job.batch, 'model', job.model, 'priority', priority, 'steps', job.steps,
    'prompt', job.prompt, 'spec', job.spec, 'labels', job.labels, 'step', 0, 'attempt', attempt, 'deaths', 0,
    'submitted', now)
  if job.result then
    set(job.id, 'attempt', job.attempt, 'result', job.result, 'step', job.steps, 'state', 'done', 'finished', now)
  else
    if job.checkpoint then set(job.id, 'checkpoint', job.checkpoint .. ':0') end
    set(job.id, 'state', 'queued', 'worker', '', 'started', '')
  end
  take_out(job.id)
  call('HDEL', index('quarantine'), job.id)
  local made = read(job.id)
  put_right(made)
  tell(job.id, 'state', made.state, unpack(job.result and { 'why', 'recovered' } or {}))
end

-- jobs: JSON list of {id, batch, model, priority, steps, prompt, spec, labels, attempt}.
-- `attempt` is the last that may have been made at a job before, `checkpoint` one whose checkpoint was found. A job
-- with the `result` of that attempt is recorded as done. A record that is whole is left as it is, and its indexes are put
-- right; one that is not, or that the caller finds `damaged`, is made anew.
-- Returns the ids now queued, how many records were made anew, and how many were not in an index.
function operations.create(jobs)
  local queued, anew, indexed = {}, 0, 0
  for _, job in ipairs(cjson.decode(jobs)) do
    local known, why = read(job.id)
    if known and not job.damaged and not incomplete(job.id) then
      call('HDEL', index('quarantine'), job.id)
      if put_right(known) > 0 then indexed = indexed + 1 end
    else
      if known or why ~= GONE then anew = anew + 1 end
      record(job)
    end
    if field(job.id, 'state') == 'queued' then queued[#queued + 1] = job.id end
  end
  return { queued, anew, indexed }
end

-- The job whose turn it is among those that wait for one of the models, or nil. None that may be had only alone.
local function next_of(models, deaths)
  local first, turn
  for _, model in ipairs(models) do
    local waiting = call('ZRANGE', index('turn:' .. model), 0, 9, 'WITHSCORES')
    for position = 1, #waiting, 2 do
      local job = examined(waiting[position])
      if job and (job.state ~= 'queued' or job.model ~= model) then
        stop_waiting(job.id, model)
        put_right(job)
      elseif job and job.deaths < deaths - 1 then
        local its_turn = tonumber(waiting[position + 1])
        if not turn or its_turn < turn then first, turn = job, its_turn end
        break
      end
    end
  end
  return first
end

local function includes(list, wanted)
  for _, one in ipairs(list) do
    if one == wanted then return true end
  end
  return false
end

-- The waiting job that a message for `asked`, which may be nil or over, brings if none of another model goes first. It
-- says that there is work for a model, not which: that is the job whose turn it is there. A suspect is brought by its own
-- message alone. `first` is the one whose turn it is among all of the models, if that is known.
local function brought_by(asked, models, deaths, first)
  if not asked then return nil end
  local waits = asked.state == 'queued' and asked or nil
  if not includes(models, asked.model) or waits and asked.deaths >= deaths - 1 then return waits end
  if first and first.model == asked.model then return first end
  return next_of({ asked.model }, deaths) or waits
end

-- The job that a message is used for: one of another model goes first if it is more urgent, or if there is no other.
local function whose_turn(asked, models, deaths)
  local first = next_of(models, deaths)
  local mine = brought_by(asked, models, deaths, first)
  if mine and first and first.priority > mine.priority then return first end
  return mine or first
end

-- The job that waits without a message now that the one for `asked` was used for `taken`, or nil.
local function owed_by(taken, asked, models, deaths)
  if not asked or asked.id == taken.id then return nil end
  local mine = brought_by(asked, models, deaths)
  if mine and (mine.model ~= taken.model or mine.deaths >= deaths - 1) then return mine end
end

-- `token` is new for each claim, so that a claim sent twice is granted once. A job that
-- one more crash would fail is a suspect: only a worker that does nothing else may claim it (`alone` is '1'), so
-- that what happens to that worker is the job's own doing and nobody else's. With models in `instead` (a JSON list), the
-- job whose turn it is among those that wait for them is granted, and without them this one alone.
-- Returns {state}, {'missing'}, {'suspect'} or {'claimed', id, attempt, spec, priority, checkpoint, waited, owed}:
-- `waited` in milliseconds, from when it was submitted; `owed` a job that is to be published again, or ''.
function operations.claim(id, worker, token, lease, deaths, alone, instead)
  deaths, instead = tonumber(deaths), cjson.decode(instead)
  local grant = index('grant:' .. token)
  local asked = named(id)
  local before = call('GET', grant)
  local job = asked
  if before then job = named(before) end
  local function granted()
    local waited = (tonumber(field(job.id, 'started')) or 0) - (tonumber(field(job.id, 'submitted')) or 0)
    local owed = owed_by(job, asked, instead, deaths)
    return {
      'claimed', job.id, job.attempt, job.spec, job.priority, job.checkpoint or '', math.max(0, waited),
      owed and owed.id or ''
    }
  end
  if job and job.state == 'running' and job.token == token then
    job.spec = field(job.id, 'spec')
    return granted()
  end
  local chosen = whose_turn(job, instead, deaths)
  if not chosen then return { job and job.state or 'missing' } end
  if chosen.id ~= id then call('SET', grant, chosen.id, 'PX', GRANT_KEPT) end
  job = chosen
  if job.deaths >= deaths - 1 and alone ~= '1' then return { 'suspect' } end
  job.spec = field(job.id, 'spec')
  if not job.spec then
    quarantine(job.id, 'it has no spec')
    return { 'missing' }
  end
  job.attempt = job.attempt + 1
  set(job.id, 'attempt', job.attempt, 'token', token)
  move(job, 'running', 'worker', worker, 'attempt', job.attempt)
  set(job.id, 'worker', worker, 'started', now, 'error', '')
  call('ZADD', index('leases'), now + lease, job.id)
  return granted()
end

-- A checkpoint of a running job is in the bucket, and the next attempt is to go on from it.
function operations.checkpoint(id, worker, attempt, step)
  if not held(id, worker, attempt) then return 0 end
  set(id, 'checkpoint', attempt .. ':' .. step)
  return 1
end

-- reports: JSON list of [id, attempt, step], or [id, attempt, step, losses] where losses were computed. Renews what the worker still holds. Returns two flat lists, id, attempt, …:
-- what it lost, and what previews are wanted of.
function operations.renew(worker, lease, reports)
  local lost, previewed = {}, {}
  local function add(list, id, attempt)
    list[#list + 1] = id
    list[#list + 1] = attempt
  end
  for _, one in ipairs(cjson.decode(reports)) do
    local id, attempt, step, losses = one[1], one[2], one[3], one[4]
    local job = held(id, worker, attempt)
    if job then
      call('ZADD', index('leases'), now + lease, id)
      if job.step ~= step then
        set(id, 'step', step)
        if losses then set(id, 'losses', losses) end
        tell(id, 'state', 'running', 'step', step)
      end
      if now < (number(job.previews_until) or 0) then add(previewed, id, attempt) end
    else
      add(lost, id, attempt)
    end
  end
  return { lost, previewed }
end

-- jobs: JSON list of ids. For `duration` ms from now previews are wanted of those that are not over. Returns the running ones.
function operations.subscribe_previews(jobs, duration)
  local running = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local job = named(id)
    if job and not OVER[job.state] then set(id, 'previews_until', now + duration) end
    if job and job.state == 'running' then running[#running + 1] = id end
  end
  return running
end

-- state is done or failed; the rest are fields to record. Returns the state the job now has: a finish by
-- one who no longer holds the lease changes nothing.
function operations.finish(id, worker, attempt, state, ...)
  local job = held(id, worker, attempt)
  if job then
    if state == 'done' then set(id, 'step', job.steps) end
    if select('#', ...) > 0 then set(id, ...) end
    forget_checkpoint(id)
    if state == 'done' then call('ZADD', index('unpromoted'), now, id) end
    move(job, state)
    return { state, 1 }
  end
  job = named(id)
  if not job then return { 'missing', 0 } end
  local same = job.state == state and job.worker == worker and job.attempt == tonumber(attempt)
  return { job.state, same and 1 or 0 }
end

-- Done jobs whose own result has been missing for `age` ms; each is named again only after as long. Returns a flat
-- list: id, key of the attempt's result, …
function operations.unpromoted(age, limit)
  local found = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', index('unpromoted'), '-inf', now - age, 'LIMIT', 0, limit)) do
    local job = examined(id)
    local result = job and job.state == 'done' and field(id, 'result')
    if result then
      call('ZADD', index('unpromoted'), now, id)
      found[#found + 1] = id
      found[#found + 1] = result
    elseif job then
      call('ZREM', index('unpromoted'), id)
    end
  end
  return found
end

function operations.promoted(id) return call('ZREM', index('unpromoted'), id) end

-- A worker that leaves hands a job back; this is nobody's fault and counts for nothing.
function operations.release(id, worker, attempt)
  local job = held(id, worker, attempt)
  if not job then return 0 end
  move(job, 'queued', 'why', 'released')
  return 1
end

