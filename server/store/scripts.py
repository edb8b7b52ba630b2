"""What is done to sessions within redis: Lua, so that comparing and changing are one step.

Each script goes through many keys, a session each, with so many arguments a key. A session is a
hash: owner (empty: nobody), epoch, revision, used (seconds since 1970), record. One that was
closed leaves a tombstone: gone, and the epoch, from which whoever makes it anew goes on.
"""

from __future__ import annotations

from typing import Final

MOVED, STORED, MISSING = 0, 1, 2

CLAIM: Final = """
-- A key: owner, whom it may be taken from, make (0 or 1), record, used, for how long it stays (ms).
-- An answer: {} (absent), {owner} (elsewhere), {epoch, used, record} (owned), {epoch, used}
-- (created).
local answers = {}
for i, key in ipairs(KEYS) do
    local at = (i - 1) * 6
    local me, from, make = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local held = redis.call('HMGET', key, 'owner', 'epoch', 'used', 'record', 'gone')
    if held[2] and not held[5] then
        if held[1] ~= '' and held[1] ~= me and held[1] ~= from then
            answers[i] = {held[1]}
        else
            local epoch = redis.call('HINCRBY', key, 'epoch', 1)
            redis.call('HSET', key, 'owner', me, 'revision', 0)
            answers[i] = {epoch, held[3], held[4]}
        end
    elseif make == '1' then
        local epoch = redis.call('HINCRBY', key, 'epoch', 1)
        redis.call('HDEL', key, 'gone')
        redis.call('HSET', key, 'owner', me, 'revision', 0, 'used', ARGV[at + 5],
            'record', ARGV[at + 4])
        redis.call('PEXPIRE', key, ARGV[at + 6])
        answers[i] = {epoch, ARGV[at + 5]}
    else
        answers[i] = {}
    end
end
return answers
"""

WRITE: Final = """
-- First the owner, whether to make what is missing (0 or 1), for how long a session used at 0 stays
-- (ms), and of all keys the epoch, the revision (int64) and used (float64). Then a key's record.
local answers = {}
local me, make, left, numbers = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
for i, key in ipairs(KEYS) do
    local epoch, revision, used = struct.unpack('<i8i8d', numbers, (i - 1) * 24 + 1)
    local held = redis.call('HMGET', key, 'owner', 'epoch', 'revision', 'gone')
    local theirs = tonumber(held[2] or -1)
    local answer = 1
    if not held[2] and make == '0' then
        answer = 2
    elseif theirs > epoch then
        answer = 0
    elseif theirs == epoch and (held[4] or held[1] ~= me or tonumber(held[3]) > revision) then
        answer = 0
    elseif theirs < epoch or tonumber(held[3]) < revision then
        -- First what needs memory: a full redis lets a script go on that has changed something.
        redis.call('HSET', key, 'owner', me, 'epoch', epoch, 'revision', revision, 'used', used,
            'record', ARGV[4 + i])
        if held[4] then
            redis.call('HDEL', key, 'gone')
        end
        redis.call('PEXPIRE', key, math.max(1, left + math.floor(used * 1000)))
    end
    answers[i] = answer
end
return answers
"""

DELETE: Final = """
-- A key: owner, epoch, for how long the tombstone stays (ms).
local answers = {}
for i, key in ipairs(KEYS) do
    local at = (i - 1) * 3
    local epoch = tonumber(ARGV[at + 2])
    local held = redis.call('HMGET', key, 'owner', 'epoch', 'gone')
    local theirs = tonumber(held[2] or -1)
    answers[i] = 1
    if not held[3] and (theirs > epoch or theirs == epoch and held[1] ~= ARGV[at + 1]) then
        answers[i] = 0
    elseif not held[3] or theirs < epoch then
        redis.call('DEL', key)
        redis.call('HSET', key, 'gone', 1, 'epoch', ARGV[at + 2])
        redis.call('PEXPIRE', key, ARGV[at + 3])
    end
end
return answers
"""

RELEASE: Final = """
-- A key: owner, epoch (-1: whatever it is).
for i, key in ipairs(KEYS) do
    local held = redis.call('HMGET', key, 'owner', 'epoch')
    local epoch = ARGV[2 * i]
    if held[1] == ARGV[2 * i - 1] and (epoch == '-1' or held[2] == epoch) then
        redis.call('HSET', key, 'owner', '')
    end
end
return {}
"""

ALL: Final = (CLAIM, WRITE, DELETE, RELEASE)
