-- The ledger's transitions, each atomic. KEYS[1] is the key prefix, ARGV[1] the operation.
--
--   queued ──claim──► running ──finish──► done | failed
--     ▲                  │ ▲
--     └──release, reap───┤ └─renew, checkpoint
--     │                  └──reap, when too often──► failed
--     └──retry── failed | cancelled              cancel: queued | running ──► cancelled
--
--   queued ──prioritise──► queued, at another turn
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

-- A command on a key that is not a record. What is there in another type, or takes no more entries, is nobody's truth,
-- and makes room.
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

-- Whether a command failed because the key holds something of another kind. Whatever else is in its way, such as a
-- right that the user lacks, says nothing of the data, and ends the operation.
local function is_of_another_kind(answer)
  local trouble = type(answer) == 'table' and answer.err
  if trouble and not string.find(trouble, 'WRONGTYPE') then error(trouble, 0) end
  return trouble
end

local function is_id(text) return string.match(text, '^[0-9a-z]+%-%d+$') ~= nil and #text <= 40 end

local NAMES = {
  'state', 'batch', 'model', 'priority', 'steps', 'step', 'attempt', 'deaths', 'submitted', 'worker', 'token',
  'checkpoint', 'previews_until', 'finished'
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
  if is_of_another_kind(found) then return nil, 'its record is not a hash' end
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
    if not job[name] then return nil, 'its ' .. name .. ' is not a number' end
  end
  if job.priority > 9 then return nil, 'its priority is not from 0 to 9' end
  if job.steps == 0 then return nil, 'it has no steps' end
  if not job.model or #job.model > 64 or not string.match(job.model, '^[a-z0-9][a-z0-9._-]*$') then
    return nil, 'its model is not a valid name'
  end
  if not job.batch or not string.match(job.batch, '^[0-9a-z]+$') then return nil, 'its batch is not a valid id' end
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
  call('ZREM', index('unpromoted'), id)
  for _, model in ipairs(call('SMEMBERS', index('models'))) do
    call('ZREM', index('waiting:' .. model), id)
    call('ZREM', index('turn:' .. model), id)
  end
end

-- Takes a job out of everything that is worked through, to where people see it. `farm recover` rebuilds it.
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
-- Returns how many of the two did not know it, or not where it is.
local function wait(job)
  call('SADD', index('models'), job.model)
  local turn = (9 - job.priority) * 1e14 + job.submitted
  return call('ZADD', index('waiting:' .. job.model), 'NX', now, job.id)
    + call('ZADD', index('turn:' .. job.model), 'CH', turn, job.id)
end

local function stop_waiting(id, model)
  return call('ZREM', index('waiting:' .. model), id) + call('ZREM', index('turn:' .. model), id)
end

-- The only place where a job changes state; each state's jobs are indexed by the time they entered it.
-- The rest are fields that tell those who follow the events why.
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

