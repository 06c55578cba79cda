"""A collector for tests: real sockets, decoded requests, configurable failures.

```python
with Receiver() as receiver:
    receiver.answer_next(Answer(503, retry_after_s=1), Answer.reset())      # the next two requests; then as before
    ...                                                                     # send to receiver.url
    assert receiver.wait_for(spans=10)
    assert [span.name for span in receiver.spans()] == [...]
```
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

from spanbus._testing.exchange import Answer, Received
from spanbus._testing.grpc import GrpcReceiver
from spanbus._testing.http import Receiver

__all__ = ["Answer", "GrpcReceiver", "Received", "Receiver", "black_hole"]


@contextmanager
def black_hole() -> Generator[str]:
    """Yield the URL of a port that never answers connection attempts: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers: list[socket.socket] = []
        try:
            for _ in range(8):
                filler = socket.socket()
                filler.settimeout(0.2)
                fillers.append(filler)
                try:
                    filler.connect(address)
                except TimeoutError:
                    break
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()
