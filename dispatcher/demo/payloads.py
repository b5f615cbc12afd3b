"""Sample events that look like a messenger's: random ids, payloads that look like ciphertext of realistic sizes."""

import base64
import json
import uuid
from collections.abc import Iterator
from random import Random

COLUMNS = ("event_id", "message_id", "event_type", "aggregate_id", "payload", "headers")
TYPES = ("message.created",) * 8 + ("message.edited", "receipt.read")


def ciphertext(rng: Random, size: int) -> str:
    """A JSON payload around `size` random bytes, as an end-to-end encrypted message would be stored."""
    return json.dumps(
        {
            "v": 1,
            "alg": "xchacha20-poly1305",
            "key_id": f"{rng.getrandbits(64):016x}",
            "nonce": base64.b64encode(rng.randbytes(24)).decode(),
            "ciphertext": base64.b64encode(rng.randbytes(size)).decode(),
        },
        separators=(",", ":"),
    )


def sample_events(rng: Random) -> Iterator[list[bytes | None]]:
    """Endless rows in the order of `COLUMNS`, each value as text in UTF-8.

    Payloads are drawn from 512 made beforehand (median about 400 bytes, a few of several kilobytes): making each anew
    would cost the generator more than the insert does. One row in four carries a traceparent.
    """
    payloads = [ciphertext(rng, min(8192, int(rng.lognormvariate(5.3, 0.9)) + 16)).encode() for _ in range(512)]
    conversations = [b"conversation-%016x" % rng.getrandbits(64) for _ in range(1000)]
    types = [name.encode() for name in TYPES]
    choose = rng.choice
    while True:
        headers = b'{"traceparent":"00-%032x-%016x-01"}' % (rng.getrandbits(128), rng.getrandbits(64))
        yield [
            str(uuid.uuid4()).encode(),  # not from the seed: two runs on one table must not collide
            str(uuid.uuid4()).encode(),
            choose(types),
            choose(conversations),
            choose(payloads),
            headers if rng.random() < 0.25 else None,
        ]
