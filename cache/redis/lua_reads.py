"""Lua for what reads marks, and for what stores answers; ``scripts`` says what the records are, and joins the parts."""

from __future__ import annotations

from typing import Final

POSITION: Final = "%x" * 8 + "%." + "%x" * 16

SERVER: Final = """
local call, find, match = redis.call, string.find, string.match
local gmatch, sub, format = string.gmatch, string.sub, string.format
local info = call('INFO', 'replication')
if not find(info, 'role:master', 1, true) then
  return redis.error_reply('NOTMASTER this server is a replica')
end
local life = match(info, 'master_replid:(%x+)')
"""

TEXT: Final = """
local function text(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then return false end
    error(reply.err, 0)
  end
  return reply
end
"""

ROOT: Final = """
local function parse(record)
  if not record then return nil end
  local state, counter, floor, at, opens, born, nonce, awaits, origin, intents = match(record,
    '^1 ([cpq]) (%d+) (%d+) (POSITION) (%d+) (%x+) (n%S*) (w%S*) o(%d+%.%d+%.%x*%.%S*)(.*)$')
  if born ~= life then return nil end
  return {state = state, counter = tonumber(counter), floor = tonumber(floor), at = at, opens = tonumber(opens),
    nonce = nonce, awaits = awaits, origin = origin, intents = intents}
end

-- Why nothing of the root is what the caller asks for: it is of a later epoch than the caller knows, or of another
-- history. Without shards the caller sends no epoch.
local function unasked(root, history, epoch)
  local since, of = match(root.origin, '^(%d+)%.(%d+%.%x*)%.')
  epoch = tonumber(epoch)
  if epoch and tonumber(since) > epoch then return 10 end
  if of ~= history then return 9 end
end

local function read(key, fields)
  if #fields == 0 then return {} end
  if #fields <= 1000 then return text('HMGET', key, unpack(fields)) end
  local all = {}
  for first = 1, #fields, 1000 do
    local some = text('HMGET', key, unpack(fields, first, math.min(first + 999, #fields)))
    if not some then return false end
    for i = 1, #some do all[first + i - 1] = some[i] end
  end
  return all
end

local function lost(key)
  call('UNLINK', key)
  return false
end
""".replace("POSITION", POSITION)

STALE: Final = """
local function stale(root, nonce, counter, values, first)
  if nonce ~= root.nonce then return 2 end
  if root.state ~= 'c' then return 3 end
  if root.intents ~= '' then return 6 end
  if counter < root.floor then return 4 end
  for i = first, #values do
    local mark = values[i]
    if mark then
      local generation, intents = match(mark, '^(%d+) POSITION(.*)$')
      if not generation then return nil end
      if tonumber(generation) > counter then return 5 end
      if intents ~= '' then return 6 end
    end
  end
  return 0
end
""".replace("POSITION", POSITION)

ENTRY: Final = """
local function header(entry, fields)
  local nonce, counter, tags = match(entry, '^1 (n%S*) (%d+)([^\\n]*)\\n')
  if nonce then
    for tag in gmatch(tags, '%S+') do fields[#fields + 1] = tag end
    return nonce, tonumber(counter)
  end
end
"""

# This is what a hit needs and no more, since hits are most of what a server does: a script that makes all functions
# first takes a quarter longer. If an entry is not plainly fresh here, the rest of the script decides, and says why.
HIT: Final = """
local match, find = string.match, string.find
local info = redis.call('INFO', 'replication')
local line = ARGV[2] == '0' and redis.pcall('GET', KEYS[2])
if type(line) == 'string' then
  local nonce, counter, tags = match(line, '^1 (n%S*) (%d+)([^\\n]*)\\n')
  if nonce then
    local names, n = {'r'}, 1
    for tag in string.gmatch(tags, '%S+') do n = n + 1; names[n] = tag end
    local values = n <= 1000 and redis.pcall('HMGET', KEYS[1], unpack(names))
    local floor, born, made, epoch, history = match(values and values[1] or '',
      '^1 c %d+ (%d+) POSITION %d+ (%x+) (n%S*) w%S* o(%d+)%.(%d+%.%x*)%.%S*$')
    counter = tonumber(counter)
    local fresh = made == nonce and counter >= tonumber(floor) and find(info, 'role:master', 1, true)
      and history == ARGV[3] and not (ARGV[4] and tonumber(epoch) > tonumber(ARGV[4]))
      and find(info, 'master_replid:' .. born .. '\\r', 1, true)
    for i = 2, fresh and n or 0 do
      if values[i] then
        local generation = match(values[i], '^(%d+) POSITION$')
        if not generation or tonumber(generation) > counter then fresh = false end
      end
    end
    if fresh then return line end
  end
end
""".replace("POSITION", POSITION)

LOOKUP: Final = """
local fields = {'r', ARGV[1]}
local entry = ARGV[2] == '0' and text('GET', KEYS[2])
local nonce, counter
if entry then nonce, counter = header(entry, fields) end
local values = read(KEYS[1], fields)
if not values then return lost(KEYS[1]) end
local root = parse(values[1])
if not root then return false end
local reason = unasked(root, ARGV[3], ARGV[4]) or 1
if reason == 1 and nonce then
  reason = stale(root, nonce, counter, values, 3)
  if reason == 0 then return entry end
end
local guard = values[2] or ''
if not reason or (guard ~= '' and not find(guard, '^%d+ POSITION')) then return lost(KEYS[1]) end
local now = call('TIME')
return {reason, values[1], guard, now[1], now[2]}
""".replace("POSITION", POSITION)

CHECK: Final = """
local fields = {'r'}
for i = 5, #ARGV do fields[i - 3] = ARGV[i] end
local values = read(KEYS[1], fields)
local root = values and parse(values[1])
if not root or unasked(root, ARGV[3], ARGV[4]) then return 0 end
return stale(root, ARGV[1], tonumber(ARGV[2]), values, 2) == 0 and 1 or 0
"""

HOLDER: Final = """
local function holder(key)
  local lease = text('GET', key)
  return lease and string.match(lease, '^1 n%S* %d+ (k%S*)$')
end
"""

PUT: Final = """
local function put(key, value, ms)
  if tonumber(ms) > 0 then redis.call('SET', key, value, 'PX', ms) else redis.call('DEL', key) end
end
"""

LEASE: Final = """
local lease = text('GET', KEYS[1])
if lease and lease ~= ARGV[3] then
  local nonce, counter = string.match(lease, '^1 (n%S*) (%d+) k%S*$')
  if nonce == ARGV[1] and tonumber(ARGV[2]) <= tonumber(counter) then return 0 end
end
local entry = ARGV[5] ~= '' and text('GET', KEYS[2])
if entry then
  local nonce, counter = string.match(entry, '^1 (n%S*) (%d+)[^\\n]*\\n')
  if nonce == ARGV[1] and tonumber(counter) >= tonumber(ARGV[5]) then return 0 end
end
put(KEYS[1], ARGV[3], ARGV[4])
return 1
"""

RELEASE: Final = """
if holder(KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

FILL: Final = """
local fields = {'r'}
local nonce, counter = header(ARGV[5], fields)
if (holder(KEYS[3]) or ARGV[2]) ~= ARGV[2] then return 8 end
call('DEL', KEYS[3])
local values = read(KEYS[1], fields)
local root = values and parse(values[1])
if not root then return 7 end
local reason = stale(root, nonce, counter, values, 2)
if not reason then
  lost(KEYS[1])
  return 7
end
if reason > 0 then return reason end
if root.origin ~= ARGV[1] then return 9 end
put(KEYS[2], ARGV[5], ARGV[3])
for i = 4, #KEYS do
  local blob = ARGV[i + 2]
  local there = text('STRLEN', KEYS[i])
  if there ~= #blob or there == 0 then
    put(KEYS[i], blob, ARGV[3])
  elseif call('PTTL', KEYS[i]) < tonumber(ARGV[3]) then
    call('PEXPIRE', KEYS[i], ARGV[3])
  end
end
local left, ms, whole = call('PTTL', KEYS[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
if left < math.max(whole / 2, ms) then call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(whole, ms))) end
return 0
"""
