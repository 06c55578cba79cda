"""NATS credentials as ``nsc`` makes them: signed tokens of an operator, of accounts and of users, and credentials files."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_UNLIMITED = -1


class Key:
    """A key pair; ``prefix`` is its kind: operator, account or user."""

    def __init__(self, prefix: int) -> None:
        import nkeys

        self.seed = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair: Any = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def token(self, subject: Key, name: str, kind: str, said: Mapping[str, object]) -> str:
        """Return a JWT about ``subject``, signed with this key."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        claims = {
            "jti": base64.b32encode(os.urandom(20)).decode(),
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": {**said, "type": kind, "version": 2},
        }
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_encoded(self._pair.sign(signed.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Accounts:
    """An operator with an account for the stream. ``options`` are the command line options of nats-server."""

    def __init__(self, folder: Path) -> None:
        import nkeys

        self._folder = folder
        self._operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, system = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT)
        names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        storage = ("mem_storage", "disk_storage", "streams", "consumer")
        limits = {**dict.fromkeys(names, _UNLIMITED), "wildcards": True}
        with_streams = {**limits, **dict.fromkeys(storage, _UNLIMITED)}
        tokens = {
            self._account: self._operator.token(
                self._account, "ci", "account", {"limits": with_streams}
            ),
            system: self._operator.token(system, "SYS", "account", {"limits": limits}),
        }
        mine = self._operator.token(
            self._operator, "operator", "operator", {"system_account": system.public}
        )
        preloaded = "\n".join(f"  {key.public}: {token}" for key, token in tokens.items())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accounts.conf").write_text(
            f"jetstream {{}}\noperator: {mine}\nsystem_account: {system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preloaded}\n}}\n"
        )
        self.options = ("-c", str(folder / "accounts.conf"))

    def user(self, name: str, publish: Sequence[str], subscribe: Sequence[str]) -> Path:
        """Write the credentials file of a user with these rights, and return its path."""
        import nkeys

        key = Key(nkeys.PREFIX_BYTE_USER)
        rights = {"pub": {"allow": list(publish)}, "sub": {"allow": list(subscribe)}}
        limits = dict.fromkeys(("subs", "data", "payload"), _UNLIMITED)
        token = self._account.token(key, name, "user", {**rights, **limits})
        file = self._folder / f"{name}.creds"
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        file.chmod(0o600)
        return file
