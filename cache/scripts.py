"""What ``marks`` says, in Lua, on one tenant's hash of marks. Read ``marks`` first; the names are the same.

A script runs alone on its server, so each is one step of the protocol. All keys are given in KEYS. Records:

- root, field ``r``:
  ``1 <state> <counter> <floor> <position> <opens> <life> n<nonce> w<awaits> o<origin>[ x<xid> <ms>]*``;
  *opens* counts the fields ``x...``, *life* is the replication id of the server that made it, then come open intents
- mark, field ``t<tag>``: ``<generation> <position>[ x<xid> <ms>]*``
- field ``x<xid>``: the fields of the tags on which that transaction has an intent, so that none has to be searched for
- entry: ``1 n<nonce> <counter>[ t<tag>]*``, a line feed, the body
- lease: ``1 n<nonce> <counter> k<token>``

Where ``marks.trimmed`` sorts all marks to drop the oldest, which takes a server tens of milliseconds for 10,000,
``trim`` draws some by chance: those at or below the floor say nothing that the root does not say, and if they are less
than a quarter of the draw, the floor rises to its lower quartile. A write drops at most 64 marks and twice those it
touched, so that none is held up by another's.

Marks that do not parse are as good as lost: they are deleted, and whoever comes next finds no root.
"""

from __future__ import annotations

import hashlib
from typing import Final

_POSITION: Final = "%x" * 8 + "%." + "%x" * 16

_SERVER: Final = """
local call, find, match = redis.call, string.find, string.match
local gmatch, sub, format = string.gmatch, string.sub, string.format
local info = call('INFO', 'replication')
if not find(info, 'role:master', 1, true) then
  return redis.error_reply('NOTMASTER this server is a replica')
end
local life = match(info, 'master_replid:(%x+)')
"""

_TEXT: Final = """
local function text(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then return false end
    error(reply.err, 0)
  end
  return reply
end
"""

_ROOT: Final = """
local function parse(record)
  if not record then return nil end
  local state, counter, floor, at, opens, born, nonce, awaits, origin, intents = match(record,
    '^1 ([cpq]) (%d+) (%d+) (POSITION) (%d+) (%x+) (n%S*) (w%S*) o(%d+%.%d+%.%S*)(.*)$')
  if born ~= life then return nil end
  return {state = state, counter = tonumber(counter), floor = tonumber(floor), at = at, opens = tonumber(opens),
    nonce = nonce, awaits = awaits, origin = origin, intents = intents}
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
""".replace("POSITION", _POSITION)

_STALE: Final = """
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
""".replace("POSITION", _POSITION)

_ENTRY: Final = """
local function header(entry, fields)
  local nonce, counter, tags = match(entry, '^1 (n%S*) (%d+)([^\\n]*)\\n')
  if nonce then
    for tag in gmatch(tags, '%S+') do fields[#fields + 1] = tag end
    return nonce, tonumber(counter)
  end
end
"""

# What a hit needs and no more, since hits are most of what a server does: a script that makes all functions first takes
# a quarter longer. What is not plainly fresh here is left to the rest of the script, which says why.
_HIT: Final = """
local match, find = string.match, string.find
local info = redis.call('INFO', 'replication')
local line = ARGV[2] == '0' and redis.pcall('GET', KEYS[2])
if type(line) == 'string' then
  local nonce, counter, tags = match(line, '^1 (n%S*) (%d+)([^\\n]*)\\n')
  if nonce then
    local names, n = {'r'}, 1
    for tag in string.gmatch(tags, '%S+') do n = n + 1; names[n] = tag end
    local values = n <= 1000 and redis.pcall('HMGET', KEYS[1], unpack(names))
    local floor, born, made = match(values and values[1] or '',
      '^1 c %d+ (%d+) POSITION %d+ (%x+) (n%S*) w%S* o%d+%.%d+%.%S*$')
    counter = tonumber(counter)
    local fresh = made == nonce and counter >= tonumber(floor) and find(info, 'role:master', 1, true)
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
""".replace("POSITION", _POSITION)

_LOOKUP: Final = """
local fields = {'r', ARGV[1]}
local entry = ARGV[2] == '0' and text('GET', KEYS[2])
local nonce, counter
if entry then nonce, counter = header(entry, fields) end
local values = read(KEYS[1], fields)
if not values then return lost(KEYS[1]) end
local root = parse(values[1])
if not root then return false end
local reason = 1
if nonce then
  reason = stale(root, nonce, counter, values, 3)
  if reason == 0 then return entry end
end
local guard = values[2] or ''
if not reason or (guard ~= '' and not find(guard, '^%d+ POSITION')) then return lost(KEYS[1]) end
local now = call('TIME')
return {reason, values[1], guard, now[1], now[2]}
""".replace("POSITION", _POSITION)

_CHECK: Final = """
local fields = {'r'}
for i = 3, #ARGV do fields[i - 1] = ARGV[i] end
local values = read(KEYS[1], fields)
local root = values and parse(values[1])
if root and stale(root, ARGV[1], tonumber(ARGV[2]), values, 2) == 0 then return 1 end
return 0
"""

_HELD: Final = """
local function held(key, token)
  local lease = text('GET', key)
  return lease and string.match(lease, '^1 n%S* %d+ (k%S*)$') == token
end
"""

_PUT: Final = """
local function put(key, value, ms)
  if tonumber(ms) > 0 then redis.call('SET', key, value, 'PX', ms) else redis.call('DEL', key) end
end
"""

_LEASE: Final = """
local lease = text('GET', KEYS[1])
if lease then
  local nonce, counter = string.match(lease, '^1 (n%S*) (%d+) k%S*$')
  if nonce == ARGV[1] and tonumber(ARGV[2]) <= tonumber(counter) then return 0 end
end
put(KEYS[1], ARGV[3], ARGV[4])
return 1
"""

_RELEASE: Final = """
if held(KEYS[1], ARGV[1]) then redis.call('DEL', KEYS[1]) end
return 1
"""

_FILL: Final = """
local fields = {'r'}
local nonce, counter = header(ARGV[5], fields)
local values = read(KEYS[1], fields)
local root = values and parse(values[1])
if not root then return 7 end
if not held(KEYS[3], ARGV[2]) then return 8 end
call('DEL', KEYS[3])
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
call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(tonumber(ARGV[4]), tonumber(ARGV[3]))))
return 0
"""

_WRITE: Final = """
local NOWHERE = string.rep('0', 8) .. '.' .. string.rep('0', 16)
local key, keep_ms, most = KEYS[1], ARGV[1], tonumber(ARGV[2])

-- Of two hexadecimal texts of 8 or 16 digits. By number: the server's locale may sort "aa" behind "b".
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

-- By bytes, whatever the locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function older(a, b)
  local epoch, timeline, shard = match(a, '^(%d+)%.(%d+)%.(.*)$')
  local other_epoch, other_timeline, other_shard = match(b, '^(%d+)%.(%d+)%.(.*)$')
  if epoch ~= other_epoch then return tonumber(epoch) < tonumber(other_epoch) end
  if timeline ~= other_timeline then return tonumber(timeline) < tonumber(other_timeline) end
  return before(shard, other_shard)
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

local function load()
  return parse(text('HGET', key, 'r'))
end

local function make(nonce, origin)
  -- Only if need be: after a first write, a server that is full no longer refuses the script's others.
  if call('EXISTS', key) == 1 then call('UNLINK', key) end
  return {state = 'p', counter = 0, floor = 0, at = NOWHERE, opens = 0, nonce = nonce, awaits = 'w', origin = origin,
    intents = ''}
end
"""

_SAVE: Final = """
-- What a dropped field knew stays with the root; see the module's text for which are dropped.
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
""".replace("POSITION", _POSITION)

_TOUCH: Final = """
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

-- New generations; with a time the intent of x is opened, else the position is merged and the intent closed.
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
""".replace("POSITION", _POSITION)

_MAKE: Final = """
local root = load()
if root and not older(root.origin, ARGV[4]) then return 0 end
save(make(ARGV[3], ARGV[4]))
return 1
"""

_COMPLETE: Final = """
local root = load()
if not root or root.nonce ~= ARGV[3] or root.state ~= 'p' then return 0 end
root.state, root.awaits, root.at = 'q', ARGV[4], merged(root.at, ARGV[5])
save(root)
return 1
"""

_RELEASE_ROOT: Final = """
local root = load()
if not root or root.nonce ~= ARGV[3] or root.state ~= 'q' then return 0 end
root.counter = root.counter + 1
root.state, root.awaits, root.floor, root.at = 'c', 'w', root.counter, merged(root.at, ARGV[4])
save(root)
return 1
"""

_OPEN: Final = """
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

_STAMP: Final = """
local root = load()
if not root or (ARGV[6] ~= '' and root.origin ~= ARGV[6]) then return 0 end
local fields = slice(ARGV, 7)
if not stamp(root, ARGV[3], fields, ARGV[4] == '1', ARGV[5]) then
  lost(key)
  return 0
end
save(root, #fields)
return 1
"""

_RESOLVE: Final = """
local root = load()
if not root then return 0 end
for i = 4, #ARGV do
  local x, fields = ARGV[i], {}
  for field in gmatch(text('HGET', key, x) or '', '%S+') do fields[#fields + 1] = field end
  local whole = find(root.intents, ' ' .. x .. ' ', 1, true) ~= nil
  if (#fields > 0 or whole) and not stamp(root, x, fields, whole, ARGV[3]) then
    lost(key)
    return 0
  end
end
save(root)
return 1
"""


class Script:
    """A text and its digest, by which a server that has it is asked to run it."""

    def __init__(self, *fragments: str) -> None:
        self.text = "\n".join(fragment.strip() for fragment in fragments).encode("ascii")
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode("ascii")


_READ: Final = (_SERVER, _TEXT, _ROOT, _STALE)
_ALTER: Final = (_SERVER, _TEXT, _ROOT, _WRITE, _SAVE)

LOOKUP: Final = Script(_HIT, *_READ, _ENTRY, _LOOKUP)
CHECK: Final = Script(*_READ, _CHECK)
LEASE: Final = Script(_TEXT, _PUT, _LEASE)
RELEASE: Final = Script(_TEXT, _HELD, _RELEASE)
FILL: Final = Script(*_READ, _ENTRY, _HELD, _PUT, _FILL)
MAKE_ROOT: Final = Script(*_ALTER, _MAKE)
COMPLETE_ROOT: Final = Script(*_ALTER, _COMPLETE)
END_QUARANTINE: Final = Script(*_ALTER, _RELEASE_ROOT)
OPEN: Final = Script(*_ALTER, _TOUCH, _OPEN)
STAMP: Final = Script(*_ALTER, _TOUCH, _STAMP)
RESOLVE: Final = Script(*_ALTER, _TOUCH, _RESOLVE)
