"""Hooks of schemathesis: they sign in, and sign in again after calls that end the session.

`cargo xtask test --only contract` runs them against a temporary stack with its demo account; TENANTRY_API is
the URL of the API.
"""

import json
import os
import threading
import urllib.request

import schemathesis

LOGIN = {"email": "test@example.com", "password": "password123", "token_delivery": "body"}
TIMEOUT_SECONDS = 10


def sign_in():
    request = urllib.request.Request(
        os.environ["TENANTRY_API"] + "/api/auth/login",
        data=json.dumps(LOGIN).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        return json.load(response)["access_token"]


class Session:
    """The access token that all requests share, until a call may have ended its session."""

    lock = threading.Lock()
    token = None

    @classmethod
    def current(cls):
        with cls.lock:
            if cls.token is None:
                cls.token = sign_in()
            return cls.token

    @classmethod
    def forget(cls, token):
        with cls.lock:
            if cls.token == token:
                cls.token = None


@schemathesis.auth(refresh_interval=None, retry_on=[])
class AccessToken:
    def get(self, case, context):
        return Session.current()

    def set(self, case, token, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {token}"


def changes_sessions(case):
    return case.method.upper() != "GET" and case.operation.path.startswith("/api/auth/")


@schemathesis.hook
def before_call(context, case, kwargs):
    """Requiring a second factor would forbid everything else to the demo account, which has none."""
    if isinstance(case.body, dict) and case.body.get("require_mfa") is True:
        case.body["require_mfa"] = False


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code == 401 or (changes_sessions(case) and response.status_code < 300):
        used = (case.headers or {}).get("Authorization", "")
        Session.forget(used.removeprefix("Bearer "))
