-- What a script sees. Redis hides what could reach outside; this hides as well what could differ between two runs
-- of one seed: addresses in text, the order of keys that are addresses, random numbers. `absent` stops the run.
local native, absent, plain, handle = ...

local function readonly(library, name)
  return setmetatable({}, {
    __metatable = false,
    __newindex = function() error("Attempt to modify a readonly table", 2) end,
    __index = function(_, key)
      local value = library[key]
      if value == nil then absent(name .. "." .. tostring(key)) end
      return value
    end,
  })
end

local function addressed(value)
  local kind = type(value)
  return kind == "table" or kind == "function" or kind == "userdata" or kind == "thread"
end

local raw_tostring, raw_next, raw_pcall = tostring, next, pcall

local function checked_next(table, key)
  local following, value = raw_next(table, key)
  if addressed(following) then absent("the order of keys that are tables or functions") end
  return following, value
end

local function settle(ok, ...)
  if ok then return ok, ... end
  return ok, (plain(...))
end

local safe_math = {}
for name, value in raw_next, math do safe_math[name] = value end
safe_math.random, safe_math.randomseed = nil, nil

local globals = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, rawequal = rawequal,
  select = select, setmetatable = setmetatable, tonumber = tonumber, type = type, unpack = unpack,
  math = readonly(safe_math, "math"), redis = readonly(native, "redis"), string = readonly(string, "string"),
  table = readonly(table, "table"),
  next = checked_next,
  pairs = function(table)
    if type(table) ~= "table" then error("bad argument #1 to 'pairs' (table expected, got " .. type(table) .. ")", 2) end
    return checked_next, table, nil
  end,
  pcall = function(...) return settle(raw_pcall(...)) end,
  tostring = function(value)
    if addressed(value) then absent("the text of a " .. type(value)) end
    return raw_tostring(value)
  end,
}

-- These exist in Redis, so a script that asks for one is not wrong; it asks for more than this stand-in has.
local unsupported = {}
for _, name in ipairs({
  "bit", "cjson", "cmsgpack", "collectgarbage", "coroutine", "gcinfo", "getfenv", "load", "loadstring", "newproxy", "os",
  "rawget", "rawset", "setfenv", "struct", "xpcall",
}) do unsupported[name] = true end

local environment = setmetatable({}, {
  __metatable = false,
  __newindex = function() error("Attempt to modify a readonly table", 2) end,
  __index = function(_, name)
    local value = globals[name]
    if value == nil then
      if unsupported[name] then absent(name) end
      error("Script attempted to access nonexistent global variable '" .. raw_tostring(name) .. "'", 2)
    end
    return value
  end,
})
globals._G = environment

local function run(script, keys, arguments)
  globals.KEYS, globals.ARGV = keys, arguments
  return xpcall(script, handle)
end

return environment, run
