-- The ledger of address pools: what circuit_core::ipam::ledger does, on keys.
-- KEYS[1] is what all keys begin with; ARGV[1] says what is to be done.
--
--   :state    epoch, count, born, settles, suspect, run, heard
--   :claims   node id -> when its claim ends      :lost   node id -> marked when
--   :names    node id -> name                     :wanted pool -> until when
--   :homes    node id -> until when, place, name
--   :pools    the pools                           :cursors
--   :owners:POOL  address -> node id, with a "!" before it when taken back
--   :held:NODE    address@pool                    :uses:POOL  address -> JSON
--   :disputed:NODE  address@pool, which others have claimed
local base, op, at = KEYS[1], ARGV[1], 2
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local TAKEN_BACK, WANTED, SET_BACK = 128, 10000, 1000

local function key(name) return base .. ':' .. name end
local function text(n) return string.format('%.0f', n) end
local function argument()
  at = at + 1
  return ARGV[at - 1]
end
local function number() return tonumber(argument()) end

-- Who calls. The order of these is that of the arguments.
local function hello()
  return { node = argument(), name = argument(), epoch = argument(), count = number(),
    fresh = argument(), place = argument(), lease = number(), grace = number(), moment = number() }
end

local function run_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end

-- The host that called last by this node id, when it was from another place, and
-- whether it may still live.
local function elsewhere(h)
  local home = redis.call('HGET', key('homes'), h.node) or ''
  local till, place, name = string.match(home, '^(%d+) (%S*) (.*)$')
  till = tonumber(till)
  if not till or place == h.place then return nil, false end
  return name, now < till and till <= now + h.lease
end

-- A pool that is known has owners: who has lost them, evicted by Redis or deleted by hand,
-- begins anew, and hears from every node what it holds.
local function look_at(pool)
  if redis.call('SISMEMBER', key('pools'), pool) == 0 then return end
  if redis.call('EXISTS', key('owners:' .. pool)) == 1 then return end
  redis.call('SREM', key('pools'), pool)
  redis.call('HDEL', key('state'), 'epoch')
  redis.call('HSET', key('state'), 'suspect', '1')
end

local function enter(h)
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do look_at(pool) end
  local s = redis.call('HMGET', key('state'), 'epoch', 'count', 'born', 'settles', 'suspect', 'run')
  local epoch, count, born = s[1], tonumber(s[2] or 0), tonumber(s[3] or 0)
  local settles, suspect, run = tonumber(s[4] or 0), s[5] or '0', run_id()
  local before = { epoch, count, born, settles, suspect, s[6] }
  local taken, lives = elsewhere(h)
  if lives then
    return { epoch = epoch or '', count = count, settling = 0, suspect = suspect, taken = taken,
      age = 0 }
  end
  -- The clock may have been set back.
  born, settles = math.min(born, now), math.min(settles, now + math.max(h.lease, h.moment))
  if not epoch then
    epoch, count, born, settles = h.fresh, h.count, now, now + h.moment
  elseif s[6] ~= run then
    -- What is lost now, a node may know that is cut off or down: after a lease it
    -- asks the wire first.
    born, settles, suspect = now, math.max(settles, now + h.lease), '1'
  end
  if h.epoch == epoch and h.count > count then
    epoch, count, born = h.fresh, h.count, now
  end
  if h.epoch ~= '' and h.epoch ~= epoch then
    settles, suspect = math.max(settles, born + h.lease), '1'
  end
  local after = { epoch, count, born, settles, suspect, run }
  for i = 1, 6 do
    if before[i] ~= after[i] then
      redis.call('HSET', key('state'), 'epoch', epoch, 'count', text(count), 'born', text(born),
        'settles', text(settles), 'suspect', suspect, 'run', run)
      break
    end
  end
  return { epoch = epoch, count = count, settling = math.max(0, settles - now), suspect = suspect,
    age = now - born }
end

local function told(standing, ...)
  return { standing.epoch, text(standing.count), text(standing.settling), standing.suspect,
    standing.taken or '', text(standing.age), ... }
end

local function give_to(pool, address, node)
  redis.call('HSET', key('owners:' .. pool), address, node)
  redis.call('SADD', key('held:' .. node), address .. '@' .. pool)
  redis.call('SADD', key('pools'), pool)
end

-- When the clock was set back, claims hold for as long as new ones at most.
local function follow_clock(h)
  local heard = tonumber(redis.call('HGET', key('state'), 'heard') or '') or 0
  if heard - now >= SET_BACK then
    local longest = text(now + h.lease + h.grace)
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', key('claims'), '(' .. longest, '+inf')) do
      redis.call('ZADD', key('claims'), longest, node)
    end
  end
  -- Not at each call of each node.
  if math.abs(now - heard) >= SET_BACK then
    redis.call('HSET', key('state'), 'heard', text(now))
  end
end

local function take_back(h)
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', key('claims'), '-inf', text(now), 'LIMIT', 0, 8)) do
    local marked = math.min(now, tonumber(redis.call('HGET', key('lost'), node) or now))
    redis.call('HSET', key('lost'), node, text(marked))
    if now - marked >= h.lease then
      for _, item in ipairs(redis.call('SPOP', key('held:' .. node), TAKEN_BACK)) do
        local address, pool = string.match(item, '^(%x+)@(.*)$')
        local owners = key('owners:' .. pool)
        if redis.call('HGET', owners, address) == node then
          redis.call('HSET', owners, address, '!' .. node)
        end
      end
      if redis.call('EXISTS', key('held:' .. node)) == 0 then
        redis.call('ZREM', key('claims'), node)
        redis.call('HDEL', key('lost'), node)
        redis.call('HDEL', key('homes'), node)
        redis.call('DEL', key('disputed:' .. node))
      end
    end
  end
end

local does = {}

function does.tick()
  local h = hello()
  local standing = enter(h)
  if standing.taken then return told(standing, '0', '0', '0', {}) end
  follow_clock(h)
  local moved = elsewhere(h) and '1' or '0'
  redis.call('HSET', key('homes'), h.node, text(now + h.lease) .. ' ' .. h.place .. ' ' .. h.name)
  local new = redis.call('ZADD', key('claims'), text(now + h.lease + h.grace), h.node)
  redis.call('HDEL', key('lost'), h.node)
  if redis.call('HGET', key('names'), h.node) ~= h.name then
    redis.call('HSET', key('names'), h.node, h.name)
  end
  take_back(h)
  redis.call('ZREMRANGEBYSCORE', key('wanted'), '-inf', text(now))
  redis.call('ZREMRANGEBYSCORE', key('wanted'), '(' .. text(now + WANTED), '+inf')
  local answer = told(standing, text(1 - new), text(redis.call('SCARD', key('held:' .. h.node))), moved,
    redis.call('SPOP', key('disputed:' .. h.node), TAKEN_BACK))
  for _, pool in ipairs(redis.call('ZRANGE', key('wanted'), 0, 31)) do
    table.insert(answer, pool)
  end
  return answer
end

-- Digits of the address with this number; `high` are those above the number.
local function digits(span, n)
  if span.width == 8 then
    return string.format('%04x%04x', math.floor(n / 65536), n % 65536)
  end
  return span.high .. string.format('%06x%06x', math.floor(n / 16777216), n % 16777216)
end

-- The part of a span that lies after the cursor, or before it.
local function part(span, cursor, after)
  if not cursor then return after and span.first or 1, after and span.last or 0 end
  local low, up = digits(span, span.first), digits(span, span.last)
  local here = tonumber(string.sub(cursor, -math.min(span.width, 12)), 16)
  if up <= cursor then
    return after and 1 or span.first, after and 0 or span.last
  elseif low > cursor then
    return after and span.first or 1, after and span.last or 0
  end
  return after and here + 1 or span.first, after and span.last or here
end

function does.take()
  local h = hello()
  local standing = enter(h)
  local pool, want, most, limit, spans = argument(), number(), number(), number(), {}
  for i = 1, number() do
    spans[i] = { high = argument(), first = number(), last = number(), width = number() }
  end
  if standing.taken or standing.settling > 0 or not spans[1] then
    return told(standing, '0', {}, {})
  end
  local owners, place = key('owners:' .. pool), pool .. '/' .. digits(spans[1], spans[1].first)
  local start = redis.call('HGET', key('cursors'), place)
  local taken, abandoned, looked, cursor = {}, {}, 0, nil
  local function look(span, from, to)
    while from <= to and #taken < want and looked < limit do
      local names = {}
      for n = from, math.min(to, from + 63, from + limit - looked - 1) do
        table.insert(names, digits(span, n))
      end
      for i, owner in ipairs(redis.call('HMGET', owners, unpack(names))) do
        if #taken >= want then break end
        looked, cursor = looked + 1, names[i]
        if not owner then
          give_to(pool, names[i], h.node)
          table.insert(taken, names[i])
        elseif string.sub(owner, 1, 1) == '!' and #abandoned < most then
          table.insert(abandoned, names[i])
        end
      end
      from = from + #names
    end
  end
  for _, after in ipairs({ true, false }) do
    for _, span in ipairs(spans) do
      look(span, part(span, start, after))
    end
  end
  if cursor then redis.call('HSET', key('cursors'), place, cursor) end
  if #taken > 0 then
    standing.count = redis.call('HINCRBY', key('state'), 'count', #taken)
  end
  return told(standing, text(looked), taken, abandoned)
end

function does.exact()
  local h = hello()
  local standing = enter(h)
  local pool, address = argument(), argument()
  if standing.taken then return told(standing, 'settling', '') end
  local owner = redis.call('HGET', key('owners:' .. pool), address)
  -- It does not know of it: its answer was lost, or its journal.
  if owner == h.node then return told(standing, 'yours', '1') end
  if owner and string.sub(owner, 1, 1) ~= '!' then
    return told(standing, 'held', redis.call('HGET', key('names'), owner) or owner)
  end
  if standing.settling > 0 then return told(standing, 'settling', '') end
  give_to(pool, address, h.node)
  standing.count = redis.call('HINCRBY', key('state'), 'count', 1)
  return told(standing, 'yours', owner and '1' or '0')
end

function does.claim()
  local node, pool, conflicts = argument(), argument(), {}
  look_at(pool)
  while at <= #ARGV do
    local address = argument()
    local owner = redis.call('HGET', key('owners:' .. pool), address)
    if owner and owner ~= node and string.sub(owner, 1, 1) ~= '!' then
      table.insert(conflicts, address)
      table.insert(conflicts, redis.call('HGET', key('names'), owner) or owner)
      redis.call('SADD', key('disputed:' .. owner), address .. '@' .. pool)
    else
      give_to(pool, address, node)
    end
  end
  return conflicts
end

local function forget(pool, owners)
  if redis.call('EXISTS', owners) == 0 then redis.call('SREM', key('pools'), pool) end
end

function does.give_back()
  local node, pool, abandoned = argument(), argument(), argument() == '1'
  local owners = key('owners:' .. pool)
  look_at(pool)
  while at <= #ARGV do
    local address = argument()
    if redis.call('HGET', owners, address) == node then
      redis.call('SREM', key('held:' .. node), address .. '@' .. pool)
      redis.call('HDEL', key('uses:' .. pool), address)
      if abandoned then
        redis.call('HSET', owners, address, '!' .. node)
      else
        redis.call('HDEL', owners, address)
      end
    end
  end
  forget(pool, owners)
  return {}
end

function does.release()
  local node, pool, count = argument(), argument(), 0
  local owners = key('owners:' .. pool)
  look_at(pool)
  while at <= #ARGV do
    local address = argument()
    if redis.call('HGET', owners, address) == '!' .. node then
      count = count + 1
      redis.call('HDEL', owners, address)
      redis.call('HDEL', key('uses:' .. pool), address)
    end
  end
  forget(pool, owners)
  return { text(count) }
end

function does.held()
  return redis.call('SSCAN', key('held:' .. argument()), argument(), 'COUNT', 512)
end

function does.want()
  redis.call('ZADD', key('wanted'), text(now + WANTED), argument())
  return {}
end

function does.note()
  local node, pool = argument(), argument()
  while at <= #ARGV do
    local address, use = argument(), argument()
    if use ~= '' and redis.call('HGET', key('owners:' .. pool), address) == node then
      redis.call('HSET', key('uses:' .. pool), address, use)
    else
      redis.call('HDEL', key('uses:' .. pool), address)
    end
  end
  return {}
end

function does.pools() return redis.call('SMEMBERS', key('pools')) end

function does.list()
  local pool = argument()
  local page = redis.call('HSCAN', key('owners:' .. pool), argument(), 'COUNT', 256)
  local answer = { page[1] }
  for i = 1, #page[2], 2 do
    local address, owner = page[2][i], page[2][i + 1]
    local abandoned = string.sub(owner, 1, 1) == '!'
    local node = abandoned and string.sub(owner, 2) or owner
    local claim = tonumber(redis.call('ZSCORE', key('claims'), node) or 0)
    table.insert(answer, { address, node, redis.call('HGET', key('names'), node) or '',
      abandoned and '1' or '0', text(math.max(0, claim - now)),
      redis.call('HGET', key('uses:' .. pool), address) or '' })
  end
  return answer
end

return does[op]()
