#!/usr/bin/env python3
"""A data source that demands a password: serves iris.csv on 127.0.0.1 by HTTP basic authentication.

    dataserver.py --password-fd FD

The password is read from a file descriptor up to its end, so it stands neither in the arguments nor in the
environment. The first line on standard output is the URL; requests are logged on standard error, without headers.
Runs until it is ended by a signal. Standard library only.
"""

import argparse
import base64
import hmac
import os
import pathlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = pathlib.Path(__file__).resolve().parent / "data" / "iris.csv"
USER = "training"


def handler(password: bytes, data: bytes):
    expected = b"Basic " + base64.b64encode(USER.encode() + b":" + password)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds a client may stall

        def do_GET(self):
            given = self.headers.get("Authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, expected):
                self.answer(401, b"this data source demands its password\n", "text/plain")
            elif self.path != "/iris.csv":
                self.answer(404, b"only /iris.csv is here\n", "text/plain")
            else:
                self.answer(200, data, "text/csv")

        def answer(self, status, body, kind):
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="iris"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main():
    parser = argparse.ArgumentParser(description="serves iris.csv to whoever knows the password")
    parser.add_argument("--password-fd", type=int, required=True, metavar="FD")
    args = parser.parse_args()
    with os.fdopen(args.password_fd, "rb") as source:
        password = source.read()
    if not password:
        sys.exit("dataserver: the password is empty")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(password, DATA.read_bytes()))
    print(f"http://127.0.0.1:{server.server_address[1]}/iris.csv", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
