"""Asks the gateway of its box each 20 ms: `asking.py MARK [MODEL]`, until the file MARK is removed.

Each request has a connection of its own. At the end it prints what became of them, as JSON.
"""

import http.client
import json
import sys
import time
from pathlib import Path

EVERY_S = 0.02


def ask(model: str) -> int:
    """Return the status of an answer that came whole."""
    connection = http.client.HTTPConnection("127.0.0.1", 8400, timeout=30)
    if model:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
        connection.request("POST", "/v1/chat/completions", body)
    else:
        connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def main() -> None:
    """Ask until told to end."""
    mark, model = Path(sys.argv[1]), "".join(sys.argv[2:])
    mark.touch()
    answered, failed, worst = 0, [], 0.0
    while mark.exists():
        began = time.monotonic()
        try:
            status = ask(model)
            answered += 1
            if status != 200:
                failed.append(str(status))
        except OSError as error:
            failed.append(repr(error))
        worst = max(worst, time.monotonic() - began)
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    print(json.dumps({"answered": answered, "failed": failed, "worst_s": round(worst, 3)}))


if __name__ == "__main__":
    main()
