"""What Redis refuses an operator, as one plain message that names the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.infra.redis.info import describe_failure

OF_REDIS = (RedisError, RedisClusterException, OSError, TimeoutError)


@contextmanager
def explained(where: str, key: str, rights: str) -> Iterator[None]:
    """Turn an error of a command about `key` into a DispatcherError. `rights`: what the command needs."""
    try:
        yield
    except NoPermissionError:
        raise Misconfigured(
            f"{where}: this user may not do that with '{key}'; allow it with ACL SETUSER ... ~{key} {rights}, or give "
            "the --redis-url of a user who may"
        ) from None
    except ResponseError as error:
        raise DispatcherError(f"{where} refused, for '{key}': {describe_failure(error)}") from None
    except OF_REDIS as error:
        raise Unreachable(f"{where} did not answer, for '{key}': {describe_failure(error)}") from None
