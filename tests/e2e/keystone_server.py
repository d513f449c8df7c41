"""OpenStack Keystone on loopback, for test_keystone.py: run by the virtualenv that has it, not by ours.

It prints its port, then a line of JSON for each login by password, once that is answered.
"""

from __future__ import annotations

import io
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from keystone.server.wsgi import initialize_public_application  # type: ignore[import-not-found]  # not in our virtualenv
from waitress import create_server  # type: ignore[import-untyped]  # the same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOGIN_TAKES_S = 1.0  # long enough for calls to meet while it lasts: if each of them logged in, it would show


class Watched:
    """Keystone, and who logs in."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) != ("POST", "/v3/auth/tokens"):
            return self._application(environ, start_response)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        statuses: list[int] = []

        def start(status: str, *more: Any) -> Any:
            statuses.append(int(status.partition(" ")[0]))
            return start_response(status, *more)

        began = time.time()
        time.sleep(LOGIN_TAKES_S)
        answer = [*self._application(environ, start)]
        user = json.loads(body)["auth"]["identity"]["password"]["user"]["name"]
        say(json.dumps({"user": user, "began": began, "ended": time.time(), "status": statuses[-1]}))
        return answer


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    server = create_server(Watched(initialize_public_application()), host="127.0.0.1", port=0, threads=8)
    say(str(server.effective_port))
    server.run()
