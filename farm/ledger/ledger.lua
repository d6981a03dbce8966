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
--
-- Anybody may have written to Redis, and a crash may have lost a part of it. So a record is read by `read` alone, which
-- trusts no field; one that cannot be read goes into quarantine, with the reason, and never stops the others. Indexes
-- say only what the records say: what is wrong in one is put right from them, or dropped.

local P = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local LEASE = 15000
local LONGEST_LEASE = 3600000
local GRANT_KEPT = 900000
local GENERATION = 100
local GONE = 'its record is gone'
local STATES = { 'queued', 'running', 'done', 'failed', 'cancelled' }
local OVER = { done = true, failed = true, cancelled = true }

local function job_key(id) return P .. ':job:' .. id end
local function field(id, name) return redis.call('HGET', job_key(id), name) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

-- A command on a key that is no record. What is there in another type, or takes no entries any more, is nobody's
-- truth, and makes room.
local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  local trouble = type(answer) == 'table' and answer.err
  if not trouble then return answer end
  if string.find(trouble, 'WRONGTYPE') or string.find(trouble, 'last possible ID') then redis.call('DEL', key) end
  return redis.call(command, key, ...)
end

local function index(name) return P .. ':' .. name end

local function tell(id, ...)
  call('XADD', index('events'), 'MAXLEN', '~', 20000, '*', 'job', id, ...)
end

-- A whole number from 0 on that is exact, or nil.
local function number(text)
  if text and #text <= 15 and string.match(text, '^%d+$') then return tonumber(text) end
end

-- Whether a command failed for there being something of another kind. Whatever else is in its way, such as a right that
-- the user lacks, says nothing of the data, and ends the operation.
local function is_of_another_kind(answer)
  local trouble = type(answer) == 'table' and answer.err
  if trouble and not string.find(trouble, 'WRONGTYPE') then error(trouble, 0) end
  return trouble
end

local function is_id(text) return string.match(text, '^[0-9a-z]+%-%d+$') ~= nil and #text <= 40 end

local NAMES = {
  'state', 'batch', 'model', 'priority', 'steps', 'step', 'attempt', 'deaths', 'submitted', 'worker', 'token',
  'checkpoint', 'looked_at', 'finished'
}
local NUMBERS = { 'priority', 'steps', 'step', 'attempt', 'deaths', 'submitted' }

local function is_state(text)
  for _, state in ipairs(STATES) do
    if state == text then return true end
  end
  return false
end

-- What a record says, its numbers as numbers; or nil, and what is wrong with it.
local function read(id)
  local found = redis.pcall('HMGET', job_key(id), unpack(NAMES))
  if is_of_another_kind(found) then return nil, 'its record is no hash' end
  local job, is_there = { id = id }, false
  for position, name in ipairs(NAMES) do
    if found[position] then
      job[name], is_there = found[position], true
    end
  end
  if not is_there then return nil, GONE end
  if not is_state(job.state) then return nil, 'it has no state' end
  for _, name in ipairs(NUMBERS) do
    job[name] = number(job[name])
    if not job[name] then return nil, 'its ' .. name .. ' is no number' end
  end
  if job.priority > 9 then return nil, 'its priority is not from 0 to 9' end
  if job.steps == 0 then return nil, 'it has no steps' end
  if not job.model or #job.model > 64 or not string.match(job.model, '^[a-z0-9][a-z0-9._-]*$') then
    return nil, 'its model is no name'
  end
  if not job.batch or not string.match(job.batch, '^[0-9a-z]+$') then return nil, 'its batch is no name' end
  if not string.match(job.checkpoint or '', '^%d+:%d+$') then job.checkpoint = nil end
  return job
end

-- Whether the parts of a record that only a worker and people need are there as well. Returns what is missing.
local function incomplete(id)
  for _, name in ipairs({ 'spec', 'prompt' }) do
    if not field(id, name) then return 'it has no ' .. name end
  end
end

local function take_out(id)
  for _, state in ipairs(STATES) do call('ZREM', index('state:' .. state), id) end
  call('ZREM', index('leases'), id)
  call('ZREM', index('uncrowned'), id)
  for _, model in ipairs(call('SMEMBERS', index('models'))) do
    call('ZREM', index('waiting:' .. model), id)
    call('ZREM', index('turn:' .. model), id)
  end
end

-- Out of everything that is worked through, and to where people see it. `farm recover` makes the job anew.
local function quarantine(id, why)
  take_out(id)
  if is_id(id) then
    call('HSET', index('quarantine'), id, why)
  else
    call('ZREM', index('jobs'), id)
  end
end

-- The record of a job that an index names: if it cannot be read, it is in quarantine from now on.
local function examined(id)
  local job, why = read(id)
  if not job then quarantine(id, why) end
  return job
end

-- The record of a job that somebody names, who may be mistaken.
local function named(id)
  local job, why = read(id)
  if not job and why ~= GONE then quarantine(id, why) end
  return job, why
end

local function checkpointed_step(job)
  return job.checkpoint and string.match(job.checkpoint, '%d+$') or 0
end

local function forget_checkpoint(id) redis.call('HDEL', job_key(id), 'checkpoint') end

-- Queued jobs are found in two orders: by when their message was last published, and by whose turn it is.
-- Returns how many of the two did not know it.
local function wait(job)
  call('SADD', index('models'), job.model)
  local turn = (9 - job.priority) * 1e14 + job.submitted
  return call('ZADD', index('waiting:' .. job.model), 'NX', now, job.id)
    + call('ZADD', index('turn:' .. job.model), 'NX', turn, job.id)
end

local function stop_waiting(id, model)
  return call('ZREM', index('waiting:' .. model), id) + call('ZREM', index('turn:' .. model), id)
end

-- The only place where a job changes state; each state's jobs are indexed by the time they entered it.
-- The rest are fields that tell those who follow the events how it came to that.
local function move(job, to, ...)
  local id, from = job.id, job.state
  set(id, 'state', to)
  job.state = to
  if from then call('ZREM', index('state:' .. from), id) end
  call('ZADD', index('state:' .. to), now, id)
  if from == 'queued' then stop_waiting(id, job.model) end
  if from == 'running' then call('ZREM', index('leases'), id) end
  if to == 'queued' then
    wait(job)
    set(id, 'worker', '', 'started', '', 'step', checkpointed_step(job))
  end
  if OVER[to] then set(id, 'finished', now) end
  tell(id, 'state', to, ...)
end

-- Makes every index say what a record says. Returns how many entries were wrong.
local function put_right(job)
  local id, position = job.id, tonumber(string.match(job.id, '%d+$'))
  local wrong = call('ZADD', index('jobs'), 'NX', job.submitted, id)
    + call('ZADD', index('batch:' .. job.batch), 'NX', position, id)
    + call('ZADD', index('batches'), 'NX', job.submitted, job.batch)
  for _, state in ipairs(STATES) do
    if state == job.state then
      wrong = wrong + call('ZADD', index('state:' .. state), 'NX', OVER[state] and number(job.finished) or now, id)
    else
      wrong = wrong + call('ZREM', index('state:' .. state), id)
    end
  end
  if job.state == 'queued' then
    local published = call('ZSCORE', index('waiting:' .. job.model), id)
    if published and tonumber(published) > now then stop_waiting(id, job.model) end
    wrong = wrong + wait(job)
  else
    wrong = wrong + stop_waiting(id, job.model)
  end
  if job.state == 'running' then
    local lapse = call('ZSCORE', index('leases'), id)
    if not lapse or tonumber(lapse) > now + LONGEST_LEASE then  -- whoever has the job renews it in time
      call('ZADD', index('leases'), now + LEASE, id)
      wrong = wrong + 1
    end
  else
    wrong = wrong + call('ZREM', index('leases'), id)
  end
  return wrong
end

-- The record of a job whose attempt a worker holds, or nil.
local function held(id, worker, attempt)
  local job = named(id)
  if job and job.state == 'running' and job.worker == worker and job.attempt == tonumber(attempt) then return job end
end

local operations = {}

-- The last attempt that may have been made at a job, by what the bucket and what is left of its record say.
local function last_attempt(job)
  local left = redis.pcall('HGET', job_key(job.id), 'attempt')
  local before = not is_of_another_kind(left) and left and number(left) or 0
  if before < job.attempt or before > 1e8 then return job.attempt end
  return before == 0 and 0 or GENERATION * (1 + math.floor(before / GENERATION))
end

local function record(job)
  local attempt = last_attempt(job)
  redis.call('DEL', job_key(job.id))
  set(job.id, 'batch', job.batch, 'model', job.model, 'priority', job.priority, 'steps', job.steps,
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

-- `token` is new for each claim, so that a claim sent twice is granted once. A job that has outlived all workers but
-- the last it may have is a suspect: only a worker that does nothing else may claim it (`alone` is '1'), so that what
-- happens to that worker is the job's own doing and nobody else's. If the job is not to be had, another that waits for one
-- of the models in `instead` (a JSON list) is granted: a message says that there is work, not which.
-- Returns {state}, {'missing'}, {'suspect'} or {'claimed', id, attempt, spec, priority, checkpoint}.
function operations.claim(id, worker, token, lease, deaths, alone, instead)
  local grant = index('grant:' .. token)
  local job, why = named(call('GET', grant) or id)
  local function granted() return { 'claimed', job.id, job.attempt, job.spec, job.priority, job.checkpoint or '' } end
  if job and job.state == 'running' and job.token == token then
    job.spec = field(job.id, 'spec')
    return granted()
  end
  if not (job and job.state == 'queued') then
    local other = next_of(cjson.decode(instead), tonumber(deaths))
    if not other then return { job and job.state or 'missing' } end
    job = other
    call('SET', grant, job.id, 'PX', GRANT_KEPT)
  end
  if job.deaths >= tonumber(deaths) - 1 and alone ~= '1' then return { 'suspect' } end
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

-- A checkpoint of a running job is in the bucket, and the next attempt shall go on from it.
function operations.checkpoint(id, worker, attempt, step)
  if not held(id, worker, attempt) then return 0 end
  set(id, 'checkpoint', attempt .. ':' .. step)
  return 1
end

-- reports: JSON list of [id, attempt, step]. Renews what the worker still holds. Returns two flat lists, id, attempt, …:
-- what it lost, and what somebody looks at.
function operations.renew(worker, lease, reports)
  local lost, looked_at = {}, {}
  local function add(list, id, attempt)
    list[#list + 1] = id
    list[#list + 1] = attempt
  end
  for _, one in ipairs(cjson.decode(reports)) do
    local id, attempt, step = one[1], one[2], one[3]
    local job = held(id, worker, attempt)
    if job then
      call('ZADD', index('leases'), now + lease, id)
      if job.step ~= step then
        set(id, 'step', step)
        tell(id, 'state', 'running', 'step', step)
      end
      if now < (number(job.looked_at) or 0) then add(looked_at, id, attempt) end
    else
      add(lost, id, attempt)
    end
  end
  return { lost, looked_at }
end

-- jobs: JSON list of ids. For `duration` ms from now somebody looks at those that are not over. Returns the running ones.
function operations.look_at(jobs, duration)
  local running = {}
  for _, id in ipairs(cjson.decode(jobs)) do
    local job = named(id)
    if job and not OVER[job.state] then set(id, 'looked_at', now + duration) end
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
    if state == 'done' then call('ZADD', index('uncrowned'), now, id) end
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
function operations.uncrowned(age, limit)
  local found = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', index('uncrowned'), '-inf', now - age, 'LIMIT', 0, limit)) do
    local job = examined(id)
    local result = job and job.state == 'done' and field(id, 'result')
    if result then
      call('ZADD', index('uncrowned'), now, id)
      found[#found + 1] = id
      found[#found + 1] = result
    elseif job then
      call('ZREM', index('uncrowned'), id)
    end
  end
  return found
end

function operations.crowned(id) return call('ZREM', index('uncrowned'), id) end

-- A worker that leaves hands a job back; this is nobody's fault and counts for nothing.
function operations.release(id, worker, attempt)
  local job = held(id, worker, attempt)
  if not job then return 0 end
  move(job, 'queued', 'why', 'released')
  return 1
end

-- Whether reapers have come by all the time for `patience` ms, each well before that was over again. If not, Redis
-- was away, or all of them were, and renewals may have been lost: nothing is reaped until the healthy have had
-- `patience` ms without another silence to renew in. Judged here, since a reaper's own request may be what Redis was
-- too late to answer. What cannot be is taken for silence.
local function was_watched(patience)
  local watch = call('HMGET', index('reaped'), 'last', 'from')
  local last, from = number(watch[1]), number(watch[2])
  call('HSET', index('reaped'), 'last', now)
  if patience == 0 then return true end
  if not last or not from or now - last > patience * 2 / 3 or from > now + patience then
    call('HSET', index('reaped'), 'from', now + patience)
    return false
  end
  return now >= from
end

local function lapse(job, deaths)
  local id, died = job.id, job.deaths + 1
  local lapses = field(id, 'lapses') or ''
  lapses = lapses .. (lapses ~= '' and ', ' or '') .. (job.worker or '?') .. ' (attempt ' .. job.attempt .. ')'
  set(id, 'deaths', died, 'lapses', lapses)
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

-- Drops what is of another type than everybody expects who reads it.
local function make_room()
  for _, name in ipairs({ 'jobs', 'batches', 'leases', 'uncrowned' }) do call('ZCARD', index(name)) end
  for _, name in ipairs(STATES) do call('ZCARD', index('state:' .. name)) end
  for _, name in ipairs({ 'events', 'control' }) do call('XLEN', index(name)) end
  for _, model in ipairs(call('SMEMBERS', index('models'))) do call('ZCARD', index('waiting:' .. model)) end
  call('HLEN', index('quarantine'))
end

-- Requeues jobs whose lease lapsed, `limit` at most; one that outlived `deaths` workers fails. Nothing is reaped
-- until reapers have watched for `patience` ms (0: none is needed).
-- Returns a flat list: id, model, priority, 'queued' | 'failed', …
function operations.reap(limit, deaths, patience)
  local taken = {}
  make_room()
  if not was_watched(tonumber(patience)) then return taken end
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
    for _, value in ipairs({ id, before, job.model or '', job.checkpoint or '', job.looked_at and 1 or 0 }) do
      told[#told + 1] = value
    end
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
    set(id, 'deaths', 0, 'lapses', '', 'error', '', 'finished', '', 'warnings', '')
    move(job, 'queued', 'why', 'retried')
  end
  return before
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

return operations[ARGV[1]](unpack(ARGV, 2))
