-- Posts one body again and again, and prints one line of JSON:
--    wrk -s load.lua URL -- BODY_FILE [NAME VALUE]...

local prepared

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*all")
   file:close()
   for number = 2, #args, 2 do
      wrk.headers[args[number]] = args[number + 1]
   end
   prepared = wrk.format()
end

function request()
   return prepared
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f}\n',
      summary.requests, summary.duration / 1e6, failed,
      latency:percentile(50) / 1e3, latency:percentile(95) / 1e3))
end
