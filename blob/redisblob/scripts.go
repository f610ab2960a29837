package redisblob

import "github.com/redis/go-redis/v9"

// The scripts are the layout's transactions. The server runs each alone, and replicates and logs what it wrote as one
// transaction. Commands that need memory come before those that free it: a server without memory refuses the first, so
// that nothing has happened then; and what only frees is never refused.

// find is how the scripts look up an entry of the index: the key, a zero byte, then the record. Keys have no control
// characters, so entries are in the order of their keys.
const find = `
local function find(index, key)
  local entry = redis.call('ZRANGEBYLEX', index, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
  if not entry then return nil end
  local gen, pieces, size, piece = string.match(string.sub(entry, #key + 2), '^(%x+) (%d+) (%d+) (%d+) %d+$')
  return entry, gen, tonumber(pieces), tonumber(size), tonumber(piece)
end
local function now()
  local t = redis.call('TIME')
  return string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
end
local function drop(prefix, gen, pieces)
  for from = 0, pieces - 1, 500 do
    local names = {}
    for n = from, math.min(from + 499, pieces - 1) do names[#names + 1] = prefix .. gen .. ':' .. n end
    redis.call('UNLINK', unpack(names))
  end
end
`

type scripts struct {
	// begin sweeps stale puts of the shard and notes new ones.
	// KEYS meta, pending. ARGV prefix of pieces, lease in ms, then "gen pieces" for each put.
	begin *redis.Script
	// stage stores a piece of a put that is still noted. KEYS pending, piece. ARGV "gen pieces", data.
	stage *redis.Script
	// abort forgets puts. KEYS pending. ARGV prefix of pieces, then "gen pieces" for each.
	abort *redis.Script
	// commit makes changes visible, all or none. KEYS meta, index, pending. ARGV prefix of pieces, "new" if the key must
	// not be there, then for each change: "put" or "staged", key, gen, pieces, size, size of a piece, data (of a "put",
	// which has one piece); or "del" and key.
	commit *redis.Script
	// get reads the record and a range. KEYS meta, index. ARGV prefix of pieces, key, offset, length (-1: to the end),
	// most bytes to give, the generation wanted or "".
	get *redis.Script
	// list reads a part of the index. KEYS meta, index. ARGV least, greatest, limit.
	list *redis.Script
}

func newScripts() scripts {
	return scripts{
		begin: redis.NewScript(find + `
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local at = now()
local stale = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. (at - ARGV[2]), 'LIMIT', 0, 16)
for _, note in ipairs(stale) do
  local gen, pieces = string.match(note, '^(%x+) (%d+)$')
  redis.call('ZREM', KEYS[2], note)
  drop(ARGV[1], gen, tonumber(pieces))
end
for i = 3, #ARGV do redis.call('ZADD', KEYS[2], at, ARGV[i]) end
return 'ok'
`),
		stage: redis.NewScript(find + `
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'lost' end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], 'XX', now(), ARGV[1])
return 'ok'
`),
		abort: redis.NewScript(find + `
for i = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    local gen, pieces = string.match(ARGV[i], '^(%x+) (%d+)$')
    drop(ARGV[1], gen, tonumber(pieces))
  end
end
return 'ok'
`),
		commit: redis.NewScript(find + `
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local at, changes, i = now(), {}, 3
while i <= #ARGV do
  if ARGV[i] ~= 'del' then
    changes[#changes + 1] = {staged = ARGV[i] == 'staged', key = ARGV[i+1], gen = ARGV[i+2], pieces = tonumber(ARGV[i+3]), data = ARGV[i+6],
      record = table.concat({ARGV[i+2], ARGV[i+3], ARGV[i+4], ARGV[i+5], at}, ' ')}
    i = i + 7
  else
    changes[#changes + 1] = {key = ARGV[i+1]}
    i = i + 2
  end
end
for _, c in ipairs(changes) do
  if c.gen then
    local entry, gen = find(KEYS[2], c.key)
    -- Sent again because the answer was lost: it has all happened.
    if gen == c.gen then return 'ok' end
    if entry and ARGV[2] == 'new' then return 'exists' end
    if c.staged and not redis.call('ZSCORE', KEYS[3], c.gen .. ' ' .. c.pieces) then return 'lost' end
  end
end
for _, c in ipairs(changes) do
  if c.gen then
    if c.staged then
      redis.call('ZADD', KEYS[3], 'XX', at, c.gen .. ' ' .. c.pieces)
    else
      redis.call('SET', ARGV[1] .. c.gen .. ':0', c.data)
    end
  end
end
for _, c in ipairs(changes) do
  local entry, gen, pieces = find(KEYS[2], c.key)
  if c.gen then
    redis.call('ZADD', KEYS[2], 0, c.key .. '\0' .. c.record)
    redis.call('ZREM', KEYS[3], c.gen .. ' ' .. c.pieces)
  end
  if entry then
    redis.call('ZREM', KEYS[2], entry)
    drop(ARGV[1], gen, pieces)
  end
end
return 'ok'
`),
		get: redis.NewScript(find + `
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local entry, gen, _, size, piece = find(KEYS[2], ARGV[2])
if not entry then return 'none' end
if ARGV[6] ~= '' and ARGV[6] ~= gen then return 'replaced' end
local answer = {string.sub(entry, #ARGV[2] + 2)}
local from, to = tonumber(ARGV[3]), size
if tonumber(ARGV[4]) >= 0 then to = math.min(size, from + tonumber(ARGV[4])) end
to = math.min(to, from + tonumber(ARGV[5]))
while from < to do
  local n = math.floor(from / piece)
  local last = math.min(to, (n + 1) * piece) - 1
  answer[#answer + 1] = redis.call('GETRANGE', ARGV[1] .. gen .. ':' .. string.format('%.0f', n),
    string.format('%.0f', from - n * piece), string.format('%.0f', last - n * piece))
  from = last + 1
end
return answer
`),
		list: redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
return redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
`),
	}
}
