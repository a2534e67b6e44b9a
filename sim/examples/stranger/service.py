"""A till: `POST /ann/1` counts order 1 of ann, once, and is answered 204. Its tally of a customer is in Redis."""
import json, os, redis
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

tally = redis.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), socket_timeout=2)
ONCE = "if redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 0 then return 0 end return redis.call('HLEN', KEYS[1])"
AGAIN = "return redis.call('HINCRBY', KEYS[1], 'total', 1)"

class Till(BaseHTTPRequestHandler):
    def do_POST(self):
        total = tally.eval(AGAIN if os.environ.get("TILL_BUG") else ONCE, 1, "tally:" + self.path.split("/")[1], self.path[1:])
        print(json.dumps({"level": "info", "message": "counted", "order": self.path[1:], "total": total}), flush=True)
        self.send_response(204)
        self.end_headers()

ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Till).serve_forever()
