"""The steps of the Redis cache as Lua, each atomic in the server and decided by its clock.

Layout, all under `isthmus:{TENANT}:`, so that one tenant's keys share a slot of a cluster:
`v:NAMESPACE:KEY` "VERSION EXPIRES_MS VALUE" (0: never), `i:NAMESPACE` sorted set of keys, `n` the counter,
`l:NAMESPACE:KEY` "TOKEN EXPIRES_MS OWNER", `t:TOKEN` there while that lease is held.
A namespace holds no colon, so no two names meet.
"""

from __future__ import annotations

# The counter follows the clock: after everything was lost it goes on above what was given out before.
_CLOCK = """
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local function rise(counter)
    local floor = time[1] * 1000000 + time[2]
    local number = redis.call('INCR', counter)
    if number < floor then
        number = floor
        redis.call('SET', counter, text(number))
    end
    return text(number)
end
"""

# KEYS: value, index, counter, token. ARGV: key, value, expected, fence, ttl in ms, keeps expiry,
# what values' names begin with. The index lives as long as its longest entry. Keys that expired are taken
# out of it bit by bit: each write looks at two of its members.
WRITE = (
    _CLOCK
    + """
if ARGV[4] ~= '' and redis.call('EXISTS', KEYS[4]) == 0 then return {'fence'} end
local old = redis.call('GET', KEYS[1])
local version, expires = '0', '0'
if old then version, expires = string.match(old, '^(%d+) (%d+) ') end
if ARGV[3] ~= '' and ARGV[3] ~= version then return {'version', version} end
if not (old and ARGV[6] == '1') then
    expires = ARGV[5] == '' and '0' or text(ms + tonumber(ARGV[5]))
end
version = rise(KEYS[3])
local cell = version .. ' ' .. expires .. ' ' .. ARGV[2]
local there = redis.call('EXISTS', KEYS[2]) == 1
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if expires == '0' then
    redis.call('SET', KEYS[1], cell)
    redis.call('PERSIST', KEYS[2])
else
    redis.call('SET', KEYS[1], cell, 'PXAT', expires)
    local lives = redis.call('PTTL', KEYS[2])
    if not there or (lives >= 0 and ms + lives < tonumber(expires)) then
        redis.call('PEXPIREAT', KEYS[2], text(tonumber(expires) + 1000))
    end
end
for _, key in ipairs(redis.call('ZRANDMEMBER', KEYS[2], 2)) do
    if redis.call('EXISTS', ARGV[7] .. key) == 0 then redis.call('ZREM', KEYS[2], key) end
end
return {'done', version, expires}
"""
)

# KEYS: value, index. ARGV: key, expected.
DELETE = """
local old = redis.call('GET', KEYS[1])
local version = old and string.match(old, '^(%d+) ') or '0'
if ARGV[2] ~= '' and ARGV[2] ~= version then return {'version', version} end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return {'done', version}
"""

# KEYS: index. ARGV: what values' names begin with, least and greatest key as ZRANGEBYLEX takes them, how
# many, how many bytes. Returns the last key that was looked at and what was found.
PAGE = """
local found, room, last = {}, tonumber(ARGV[5]), ''
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
    if room <= 0 then break end
    last = key
    local cell = redis.call('GET', ARGV[1] .. key)
    if cell then
        found[#found + 1] = key
        found[#found + 1] = cell
        room = room - #cell
    else
        redis.call('ZREM', KEYS[1], key)
    end
end
return {last, found}
"""

# KEYS: lease, counter. ARGV: owner, ttl in ms, token, what tokens' names begin with.
ACQUIRE = (
    _CLOCK
    + """
local held = redis.call('GET', KEYS[1])
local token, expires, owner
if held then token, expires, owner = string.match(held, '^(%d+) (%d+) (.*)$') end
if ARGV[3] == '' and not held then
    token, owner = rise(KEYS[2]), ARGV[1]
elseif held and ARGV[3] == token then
    if ARGV[1] ~= '' then owner = ARGV[1] end
elseif held then
    return {'', expires, owner}
else
    return {'', '0', ''}
end
expires = text(ms + tonumber(ARGV[2]))
redis.call('SET', KEYS[1], token .. ' ' .. expires .. ' ' .. owner, 'PXAT', expires)
redis.call('SET', ARGV[4] .. token, '1', 'PXAT', expires)
return {token, expires, owner}
"""
)

# KEYS: lease, token. ARGV: token.
RELEASE = """
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^(%d+) ') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
