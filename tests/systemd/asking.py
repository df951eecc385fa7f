"""Asks a gateway from within a box: `asking.py PORT`, each 20 ms, until its stdin has something.

Each request has a connection of its own. At the end it prints what became of them, as JSON.
"""

import http.client
import json
import select
import sys
import time

EVERY_S = 0.02


def main() -> None:
    """Ask until told to end."""
    port = int(sys.argv[1])
    answered, failed, worst = 0, [], 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/v1/models")
            status = connection.getresponse().status
            connection.close()
            if status != 200:
                failed.append(str(status))
            answered += 1
        except OSError as error:
            failed.append(repr(error))
        worst = max(worst, time.monotonic() - began)
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    print(json.dumps({"answered": answered, "failed": failed, "worst_s": round(worst, 3)}))


if __name__ == "__main__":
    main()
