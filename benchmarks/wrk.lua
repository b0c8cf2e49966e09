-- Posts the bodies named in WRK_BODIES (files, one a line) in rotation and reports one line of JSON.
-- Knows nothing of servers: the address, path and connections come from wrk's command line, the type from WRK_TYPE.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  bad = 0
  requests, at = {}, 0
  local headers = { ["Content-Type"] = os.getenv("WRK_TYPE") }
  for path in io.lines(os.getenv("WRK_BODIES")) do
    local file = assert(io.open(path, "rb"))
    table.insert(requests, wrk.format("POST", nil, headers, file:read("*a")))
    file:close()
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function response(status)
  if status ~= 200 then
    bad = bad + 1
  end
end

function done(summary, latency)
  local refused = 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("bad")
  end
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "not_200": %d, "lost": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, refused, lost))
end
