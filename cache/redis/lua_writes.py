"""Lua for what changes marks; ``scripts`` says what the records are, and joins the parts."""

from __future__ import annotations

from typing import Final

from tidegate.cache.redis.lua_reads import POSITION

WRITE: Final = """
local NOWHERE = string.rep('0', 8) .. '.' .. string.rep('0', 16)
local key, keep_ms, most = KEYS[1], ARGV[1], tonumber(ARGV[2])

-- The greater of two hexadecimal texts of 8 or 16 digits. Compared as numbers: the server's locale may sort "aa"
-- behind "b".
local function later(a, b)
  if a == b then return a end
  for i = 1, #a, 8 do
    local x, y = tonumber(sub(a, i, i + 7), 16), tonumber(sub(b, i, i + 7), 16)
    if x ~= y then return x > y and a or b end
  end
  return a
end

local function merged(a, b)
  if a == b then return a end
  return later(sub(a, 1, 8), sub(b, 1, 8)) .. '.' .. later(sub(a, 10), sub(b, 10))
end

-- Whether a sorts before b by its bytes, whatever the locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local ORIGIN = '^(%d+)%.(%d+)%.%x*%.(.*)$'
-- Whether b is newer than a. Of two that differ in nothing but the tokens of their histories, neither is.
local function older(a, b)
  if a == b then return false end
  local epoch, ordinal, shard = match(a, ORIGIN)
  local other_epoch, other_ordinal, other_shard = match(b, ORIGIN)
  if epoch ~= other_epoch then return tonumber(epoch) < tonumber(other_epoch) end
  if shard ~= other_shard then return before(shard, other_shard) end
  return tonumber(ordinal) < tonumber(other_ordinal)
end

local function without(intents, x)
  if intents == '' then return '' end
  local kept = ''
  for other, since in gmatch(intents, ' (x%S*) (%d+)') do
    if other ~= x then kept = kept .. ' ' .. other .. ' ' .. since end
  end
  return kept
end

local function by_thousands(command, list)
  for first = 1, #list, 1000 do call(command, key, unpack(list, first, math.min(first + 999, #list))) end
end

-- Marks of another life are removed. A slot of a cluster may come back to the server that made them: they would vouch
-- again, and not know of what was changed meanwhile.
local function load()
  local record = text('HGET', key, 'r')
  local root = parse(record)
  if record and not root then call('UNLINK', key) end
  return root
end

local function make(nonce, origin)
  -- Only if it must be: a full server refuses the first write of a script, and after one was done, none of the others.
  if call('EXISTS', key) == 1 then call('UNLINK', key) end
  return {state = 'p', counter = 0, floor = 0, at = NOWHERE, opens = 0, nonce = nonce, awaits = 'w', origin = origin,
    intents = ''}
end
"""

SAVE: Final = """
-- What a dropped field knew stays with the root; the docstring of the module "scripts" says which are dropped.
local function trim(root, added)
  local excess = math.min(call('HLEN', key) - 1 - root.opens - most, 64 + 2 * added)
  while excess > 0 do
    local sample, found, generations = call('HRANDFIELD', key, 128, 'WITHVALUES'), {}, {}
    for i = 1, #sample, 2 do
      local generation, at = match(sample[i + 1], '^(%d+) (POSITION)$')
      if generation and sub(sample[i], 1, 1) == 't' then
        found[#found + 1] = {sample[i], tonumber(generation), at}
        generations[#generations + 1] = tonumber(generation)
      end
    end
    if #found == 0 then return end
    table.sort(generations)
    root.floor = math.max(root.floor, generations[math.ceil(#generations / 4)])
    local dropped = {}
    for _, mark in ipairs(found) do
      if mark[2] <= root.floor then
        dropped[#dropped + 1] = mark[1]
        root.at = merged(root.at, mark[3])
      end
    end
    call('HDEL', key, unpack(dropped))
    excess = excess - #dropped
  end
end

local function record(root)
  return format('1 %s %.0f %.0f %s %.0f %s %s %s o%s%s', root.state, root.counter, root.floor, root.at, root.opens,
    life, root.nonce, root.awaits, root.origin, root.intents)
end

local function save(root, added)
  call('HSET', key, 'r', record(root))
  local floor, at = root.floor, root.at
  trim(root, added or 0)
  if root.floor ~= floor or root.at ~= at then call('HSET', key, 'r', record(root)) end
  call('PEXPIRE', key, keep_ms)
end
""".replace("POSITION", POSITION)

TOUCH: Final = """
local function note(root, x, fields, opening)
  local old = text('HGET', key, x) or ''
  if #fields == 0 or (old == '' and not opening) then return end
  local there, left = {}, {}
  for field in gmatch(old, '%S+') do there[field] = true end
  for _, field in ipairs(fields) do there[field] = opening or nil end
  for field in pairs(there) do left[#left + 1] = field end
  if #left == 0 then call('HDEL', key, x) else call('HSET', key, x, table.concat(left, ' ')) end
  root.opens = root.opens + (#left > 0 and 1 or 0) - (old ~= '' and 1 or 0)
end

-- Give the fields new generations. With a time, also open the intent of x; else merge the position, and close it.
local function touch(root, x, fields, now, at)
  local old = read(key, fields)
  if not old then return false end
  local generation = format('%.0f', root.counter + 1)
  local new = {}
  for i, field in ipairs(fields) do
    local was, intents = NOWHERE, ''
    if old[i] then was, intents = match(old[i], '^%d+ (POSITION)(.*)$') end
    if not was then return false end
    intents = without(intents, x)
    if now then intents = intents .. ' ' .. x .. ' ' .. now else was = merged(was, at) end
    new[#new + 1], new[#new + 2] = field, generation .. ' ' .. was .. intents
  end
  root.counter = root.counter + 1
  by_thousands('HSET', new)
  note(root, x, fields, now)
  return true
end

local function stamp(root, x, fields, whole, at)
  if not touch(root, x, fields, nil, at) then return false end
  if whole then
    root.floor, root.at, root.intents = root.counter, merged(root.at, at), without(root.intents, x)
  end
  return true
end

local function slice(list, first)
  local some = {}
  for i = first, #list do some[#some + 1] = list[i] end
  return some
end
""".replace("POSITION", POSITION)

MAKE: Final = """
local root = load()
if root and not older(root.origin, ARGV[4]) then return 0 end
save(make(ARGV[3], ARGV[4]))
return 1
"""

COMPLETE: Final = """
local root = load()
if not root or root.nonce ~= ARGV[3] or root.state ~= 'p' then return 0 end
root.state, root.awaits, root.at = 'q', ARGV[4], merged(root.at, ARGV[5])
save(root)
return 1
"""

RELEASE_ROOT: Final = """
local root = load()
if not root or root.nonce ~= ARGV[3] or root.state ~= 'q' then return 0 end
root.counter = root.counter + 1
root.state, root.awaits, root.floor, root.at = 'c', 'w', root.counter, merged(root.at, ARGV[4])
save(root)
return 1
"""

OPEN: Final = """
local x, origin, fields = ARGV[3], ARGV[6], slice(ARGV, 7)
local root = load()
if not root or older(root.origin, origin) then root = make(ARGV[5], origin) end
if root.origin ~= origin then return 0 end
local time = call('TIME')
local now = format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if not touch(root, x, fields, now) then
  root = make(ARGV[5], origin)
  touch(root, x, fields, now)
end
if ARGV[4] == '1' then root.intents = without(root.intents, x) .. ' ' .. x .. ' ' .. now end
save(root, #fields)
return 1
"""

LOADED: Final = """
local root = load()
"""

STAMP: Final = """
if not root then return 2 end
if ARGV[6] ~= '' and root.origin ~= ARGV[6] then return 0 end
local fields = slice(ARGV, 7)
if not stamp(root, ARGV[3], fields, ARGV[4] == '1', ARGV[5]) then
  lost(key)
  return 2
end
save(root, #fields)
return 1
"""

# A root of an older origin knows nothing of the data that were changed: it is forgotten, which voids all it has.
OUTDATED: Final = """
if root and ARGV[6] ~= '' and older(root.origin, ARGV[6]) then
  lost(key)
  return 2
end
"""

RESOLVE: Final = """
local root = load()
if not root or root.origin ~= ARGV[3] then return 0 end
for i = 5, #ARGV do
  local x, fields = ARGV[i], {}
  for field in gmatch(text('HGET', key, x) or '', '%S+') do fields[#fields + 1] = field end
  local whole = find(root.intents, ' ' .. x .. ' ', 1, true) ~= nil
  if (#fields > 0 or whole) and not stamp(root, x, fields, whole, ARGV[4]) then
    lost(key)
    return 0
  end
end
save(root)
return 1
"""

LOSE: Final = """
redis.call('UNLINK', KEYS[1])
return 1
"""

SWITCH: Final = """
local names = {}
for name in string.gmatch(text('GET', KEYS[1]) or '', '%S+') do
  if name ~= ARGV[1] then names[#names + 1] = name end
end
if ARGV[2] == '1' then names[#names + 1] = ARGV[1] end
redis.call('SET', KEYS[1], table.concat(names, ' '))
return 1
"""

# Name a history, and return the newest that was named.
NEWEST: Final = """
local known = text('GET', KEYS[1])
local ordinal = known and tonumber(string.match(known, '^(%d+)%.%x*$'))
if ordinal and tonumber(string.match(ARGV[1], '^(%d+)%.%x*$')) <= ordinal then return known end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""
