-- The ledger's transitions, each atomic. KEYS[1] is the key prefix, ARGV[1] the operation.
--
--   queued ──claim──► running ──finish──► done | failed
--     ▲                  │ ▲
--     └──release, reap───┤ └─renew, checkpoint
--     │                  └──reap, when too often──► failed
--     └──retry── failed | cancelled              cancel: queued | running ──► cancelled
--
-- Time is Redis' own (milliseconds), so clocks of machines need not agree. Every operation may be sent
-- twice (clients retry) and then has the effect of once.

local P = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function job_key(id) return P .. ':job:' .. id end
local function field(id, name) return redis.call('HGET', job_key(id), name) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

local function tell(id, ...)
  redis.call('XADD', P .. ':events', 'MAXLEN', '~', 20000, '*', 'job', id, ...)
end

-- The step from which a job would go on: that of its checkpoint, '<attempt>:<step>', or 0.
local function checkpointed_step(id)
  return string.match(field(id, 'checkpoint') or '', ':(%d+)$') or 0
end

local function forget_checkpoint(id) redis.call('HDEL', job_key(id), 'checkpoint') end

-- The only place where a job changes state; each state's jobs are indexed by the time they entered it.
-- The rest are fields that tell those who follow the events how it came to that.
local function move(id, from, to, ...)
  set(id, 'state', to)
  if from then redis.call('ZREM', P .. ':state:' .. from, id) end
  redis.call('ZADD', P .. ':state:' .. to, now, id)
  local model = field(id, 'model')
  if from == 'queued' then redis.call('ZREM', P .. ':waiting:' .. model, id) end
  if from == 'running' then redis.call('ZREM', P .. ':leases', id) end
  if to == 'queued' then
    redis.call('SADD', P .. ':models', model)
    redis.call('ZADD', P .. ':waiting:' .. model, now, id)
    set(id, 'worker', '', 'started', '', 'step', checkpointed_step(id))
  end
  if to == 'done' or to == 'failed' or to == 'cancelled' then set(id, 'finished', now) end
  tell(id, 'state', to, ...)
end

-- Whether a worker's attempt is under way, by a job's state, worker and attempt.
local function is_held(job, worker, attempt)
  return job[1] == 'running' and job[2] == worker and job[3] == attempt
end

local function holds(id, worker, attempt)
  return is_held(redis.call('HMGET', job_key(id), 'state', 'worker', 'attempt'), worker, attempt)
end

local operations = {}

-- jobs: JSON list of {id, batch, model, priority, steps, prompt, spec, labels, attempt}. Returns the ids now queued.
-- `attempt` is the last that may have been made at a job before, `checkpoint` one whose checkpoint was found. A job
-- with the `result` of that attempt is recorded as done.
function operations.create(jobs)
  local queued = {}
  for _, job in ipairs(cjson.decode(jobs)) do
    if redis.call('EXISTS', job_key(job.id)) == 0 then
      set(job.id, 'batch', job.batch, 'model', job.model, 'priority', job.priority, 'steps', job.steps,
        'prompt', job.prompt, 'spec', job.spec, 'labels', job.labels, 'step', 0, 'attempt', job.attempt, 'deaths', 0,
        'submitted', now)
      redis.call('ZADD', P .. ':jobs', now, job.id)
      redis.call('ZADD', P .. ':batch:' .. job.batch, tonumber(string.match(job.id, '%d+$')), job.id)
      redis.call('ZADD', P .. ':batches', 'NX', now, job.batch)
      if job.result then
        set(job.id, 'result', job.result, 'step', job.steps)
        move(job.id, nil, 'done', 'why', 'recovered')
      else
        if job.checkpoint then set(job.id, 'checkpoint', job.checkpoint .. ':0') end
        move(job.id, nil, 'queued')
      end
    end
    if field(job.id, 'state') == 'queued' then queued[#queued + 1] = job.id end
  end
  return queued
end

-- `token` is new for each claim, so that a claim sent twice is granted once. A job that has outlived all workers but
-- the last it may have is a suspect: only a worker that does nothing else may claim it (`alone` is '1'), so that what
-- happens to that worker is the job's own doing and nobody else's.
-- Returns {state}, {'suspect'} or {'claimed', attempt, spec, priority, checkpoint}.
function operations.claim(id, worker, token, lease, deaths, alone)
  local job = redis.call('HMGET', job_key(id), 'state', 'token', 'attempt', 'spec', 'priority', 'checkpoint', 'deaths')
  if not job[1] then return { 'missing' } end
  local granted = { 'claimed', tonumber(job[3]), job[4], tonumber(job[5]), job[6] or '' }
  if job[1] == 'running' and job[2] == token then return granted end
  if job[1] ~= 'queued' then return { job[1] } end
  if tonumber(job[7]) >= tonumber(deaths) - 1 and alone ~= '1' then return { 'suspect' } end
  local attempt = tonumber(job[3]) + 1
  granted[2] = attempt
  set(id, 'attempt', attempt, 'token', token)
  move(id, 'queued', 'running', 'worker', worker, 'attempt', attempt)
  set(id, 'worker', worker, 'started', now, 'error', '')
  redis.call('ZADD', P .. ':leases', now + lease, id)
  return granted
end

-- A checkpoint of a running job is in the bucket, and the next attempt shall go on from it.
function operations.checkpoint(id, worker, attempt, step)
  if not holds(id, worker, attempt) then return 0 end
  set(id, 'checkpoint', attempt .. ':' .. step)
  return 1
end

-- held: JSON list of [id, attempt, step]. Renews what the worker still holds. Returns two flat lists, id, attempt, …:
-- what it lost, and what somebody looks at.
function operations.renew(worker, lease, held)
  local lost, looked_at = {}, {}
  local function add(list, id, attempt)
    list[#list + 1] = id
    list[#list + 1] = attempt
  end
  for _, one in ipairs(cjson.decode(held)) do
    local id, attempt, step = one[1], tostring(one[2]), tostring(one[3])
    local job = redis.call('HMGET', job_key(id), 'state', 'worker', 'attempt', 'step', 'looked_at')
    if is_held(job, worker, attempt) then
      redis.call('ZADD', P .. ':leases', now + lease, id)
      if job[4] ~= step then
        set(id, 'step', step)
        tell(id, 'state', 'running', 'step', step)
      end
      local until_when = job[5] and tonumber(job[5]) or 0
      if now < until_when then add(looked_at, id, one[2]) end
    else
      add(lost, id, one[2])
    end
  end
  return { lost, looked_at }
end

-- jobs: JSON list of ids. For `duration` ms from now somebody looks at those that are not over. Returns the running ones.
function operations.look_at(jobs, duration)
  local running = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local state = field(id, 'state')
    if state == 'queued' or state == 'running' then set(id, 'looked_at', now + duration) end
    if state == 'running' then running[#running + 1] = id end
  end
  return running
end

-- state is done or failed; the rest are fields to record. Returns the state the job now has: a finish by
-- one who no longer holds the lease changes nothing.
function operations.finish(id, worker, attempt, state, ...)
  if holds(id, worker, attempt) then
    if state == 'done' then set(id, 'step', field(id, 'steps')) end
    if select('#', ...) > 0 then set(id, ...) end
    forget_checkpoint(id)
    if state == 'done' then redis.call('ZADD', P .. ':uncrowned', now, id) end
    move(id, 'running', state)
    return { state, 1 }
  end
  local now_held = redis.call('HMGET', job_key(id), 'state', 'worker', 'attempt')
  local same = now_held[1] == state and now_held[2] == worker and now_held[3] == attempt
  return { now_held[1] or 'missing', same and 1 or 0 }
end

-- A worker that leaves hands a job back; this is nobody's fault and counts for nothing.
function operations.release(id, worker, attempt)
  if not holds(id, worker, attempt) then return 0 end
  move(id, 'running', 'queued', 'why', 'released')
  return 1
end

-- Whether reapers have come by all the time for `patience` ms, each well before that was over again. If not, Redis
-- was away, or all of them were, and renewals may have been lost: nothing is reaped until the healthy have had
-- `patience` ms without another silence to renew in. Judged here, since a reaper's own request may be what Redis was
-- too late to answer.
local function was_watched(patience)
  local key = P .. ':reaped'
  local watch = redis.call('HMGET', key, 'last', 'from')
  redis.call('HSET', key, 'last', now)
  if not watch[1] or now - watch[1] > patience * 2 / 3 then
    redis.call('HSET', key, 'from', now + patience)
    return false
  end
  return now >= tonumber(watch[2])
end

-- Requeues jobs whose lease lapsed, `limit` at most; one that outlived `deaths` workers fails. Nothing is reaped
-- until reapers have watched for `patience` ms (0: none is needed).
-- Returns a flat list: id, model, priority, 'queued' | 'failed', …
function operations.reap(limit, deaths, patience)
  local taken = {}
  if tonumber(patience) > 0 and not was_watched(tonumber(patience)) then return taken end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', now, 'LIMIT', 0, limit)) do
    local job = redis.call('HMGET', job_key(id), 'model', 'priority', 'worker', 'attempt')
    if not job[1] then
      redis.call('ZREM', P .. ':leases', id) -- a lease without a record must not stop the others
    else
      local died = redis.call('HINCRBY', job_key(id), 'deaths', 1)
      local lapses = (field(id, 'lapses') or '') .. (died > 1 and ', ' or '') .. job[3] .. ' (attempt ' .. job[4] .. ')'
      set(id, 'lapses', lapses)
      local to = 'queued'
      if died >= tonumber(deaths) then
        to = 'failed'
        forget_checkpoint(id)
        set(id, 'error', cjson.encode({
          kind = 'poison',
          message = 'it seems to bring its workers down: its lease lapsed ' .. died .. ' times, on ' .. lapses
        }))
      end
      move(id, 'running', to, 'why', 'lapsed')
      for _, value in ipairs({ id, job[1], tonumber(job[2]), to }) do taken[#taken + 1] = value end
    end
  end
  return taken
end

-- Returns the state before and what is of no more use: the checkpoint, and whether somebody has looked, so that there may
-- be a preview. The worker learns of it from the control stream and drops the job.
function operations.cancel(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'checkpoint', 'looked_at')
  local state = job[1]
  if not state then return { 'missing', '', 0 } end
  if state == 'queued' or state == 'running' then
    forget_checkpoint(id)
    move(id, state, 'cancelled')
    if state == 'running' then
      redis.call('XADD', P .. ':control', 'MAXLEN', '~', 1000, '*', 'cancel', id, 'attempt', field(id, 'attempt'))
    end
  end
  return { state, job[2] or '', job[3] and 1 or 0 }
end

-- Returns the state before; failed and cancelled jobs are queued again with a clean slate of deaths.
function operations.retry(id)
  local state = field(id, 'state')
  if not state then return 'missing' end
  if state == 'failed' or state == 'cancelled' then
    set(id, 'deaths', 0, 'lapses', '', 'error', '', 'finished', '', 'warnings', '')
    move(id, state, 'queued', 'why', 'retried')
  end
  return state
end

-- Jobs of a model that have waited for `age` ms since they were last published, marked as published now; `but` is a
-- JSON list of jobs to leave out, which have a message still. Returns a flat list: id, priority, …
function operations.republish(model, age, limit, but)
  local waiting = P .. ':waiting:' .. model
  local left_out, named = cjson.decode(but), {}
  for _, id in ipairs(left_out) do named[id] = true end
  local stale = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now - age, 'LIMIT', 0, limit + #left_out)) do
    if not named[id] and #stale < 2 * limit then
      redis.call('ZADD', waiting, now, id)
      stale[#stale + 1] = id
      stale[#stale + 1] = tonumber(field(id, 'priority'))
    end
  end
  return stale
end

return operations[ARGV[1]](unpack(ARGV, 2))
