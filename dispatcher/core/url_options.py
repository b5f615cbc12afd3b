"""Options of URLs that are refused, each by its name and with what to write instead.

Ignored, one of them would promise what does not happen: `redis://...?ssl=true` would send the password in the clear.
A name is shown, a value never; no name either where it may be a part of a password.
"""

from collections.abc import Collection
from urllib.parse import parse_qsl

_LEAVE_OUT = "leave it out"
_OUR_TIMEOUTS = "leave it out: DISPATCH_CONNECT_TIMEOUT_MS and DISPATCH_QUERY_TIMEOUT_MS say how long we wait"
_SSLMODE = "write sslmode=require, sslmode=verify-full or sslmode=disable"
_REDISS = "write rediss:// for redis://"

POSTGRES_HINTS = {
    **dict.fromkeys(("schema", "currentSchema", "search_path"), "leave it out: our tables lie in the schema messaging"),
    "pgbouncer": "leave it out: a pooler is recognised; DISPATCH_LISTEN_URL leads past it",
    **dict.fromkeys(
        ("connection_limit", "pool_timeout", "pool_size", "max_overflow", "pool_max_conns", "pool_mode"),
        "leave it out: a dispatcher opens six or seven sessions, and works with fewer",
    ),
    **dict.fromkeys(
        ("statement_cache_size", "prepared_statement_cache_size", "prepareThreshold", "prepare_threshold"),
        "leave it out: behind a transaction pooler nothing is prepared",
    ),
    **dict.fromkeys(("ssl", "sslaccept", "tls", "useSSL", "ssl_mode", "tlsmode", "ssl_cert_reqs"), _SSLMODE),
    **dict.fromkeys(
        ("timeout", "command_timeout", "socket_timeout", "statement_timeout", "lock_timeout"), _OUR_TIMEOUTS
    ),
    "driver": "leave it out: psycopg is used",
}
REDIS_HINTS = {
    **dict.fromkeys(("ssl", "tls", "sslmode", "ssl_mode", "use_ssl", "usessl", "useSSL", "secure"), _REDISS),
    **dict.fromkeys(
        ("tls_skip_verify", "tlsSkipVerify", "skip_verify", "insecure", "sslProtocols", "abortConnect"),
        "write rediss://...?ssl_cert_reqs=none, if you must",
    ),
    **dict.fromkeys(
        ("timeout", "dial_timeout", "read_timeout", "write_timeout", "connect_timeout", "connectTimeout"),
        "leave it out: DISPATCH_CONNECT_TIMEOUT_MS and DISPATCH_PUBLISH_TIMEOUT_MS say how long we wait",
    ),
    **dict.fromkeys(("pool_size", "min_idle_conns", "poolSize"), "leave it out: a dispatcher holds two connections"),
    **dict.fromkeys(("virtual_host", "vhost", "database"), "write the number of the database as the path: /0"),
    **dict.fromkeys(
        ("sentinel", "sentinels", "master", "master_name"), "write redis+sentinel://host:26379,host2:26379/service"
    ),
    **dict.fromkeys(("cluster", "startup_nodes"), "write redis+cluster://host:6379,host2:6379"),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Of redis-py. Those about timeouts and pools have no effect here: our own settings say how long to wait.
_REDIS_KNOWN = _words(
    "db username password socket_timeout socket_connect_timeout socket_read_size socket_keepalive retry_on_timeout "
    "max_connections health_check_interval protocol client_name lib_name lib_version decode_responses encoding "
    "encoding_errors"
)
_REDIS_TLS = _words(
    "ssl_keyfile ssl_certfile ssl_cert_reqs ssl_include_verify_flags ssl_exclude_verify_flags ssl_ca_certs ssl_ca_data "
    "ssl_ca_path ssl_check_hostname ssl_min_version ssl_ciphers ssl_password"
)
_CERT_REQS = ("none", "optional", "required")
_SECRETS = ("password", "sslpassword", "ssl_password", "sentinel_password", "oauth_client_secret")


def refused_by_postgres(url: str, known: Collection[str]) -> str | None:
    """What is wrong with the options of a postgresql:// URL, or None. `known`: the options of libpq."""
    place = url.partition("://")[2]
    at = place.partition("/")[0].rpartition("@")[0]  # a password may hold a question mark
    query = place[len(at) :].partition("?")[2]
    options = _options(query)
    wrong = [name for name, value in options if name not in known and (name, value) != ("ssl", "true")]
    return _said(wrong, options, query, POSTGRES_HINTS, "libpq has no such option")


def refused_by_redis(scheme: str, query: str) -> str | None:
    """What is wrong with the options of a URL of that scheme, or None."""
    options, secure = _options(query), scheme == "rediss"
    hints = dict(REDIS_HINTS)
    for name in [*_REDIS_TLS, *(name for name, hint in REDIS_HINTS.items() if hint == _REDISS)]:
        hints[name] = "leave it out: rediss:// says it" if secure else _REDISS
    wrong = []
    for name, value in options:
        if name == "ssl_cert_reqs" and secure and value not in _CERT_REQS:
            hints[name] = "write none, optional or required, without CERT_"
            wrong.append(name)
        elif name not in _REDIS_KNOWN and not (secure and name in _REDIS_TLS):
            wrong.append(name)
    return _said(wrong, options, query, hints, "redis-py has no such option")


def _options(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _said(
    wrong: list[str], options: list[tuple[str, str]], query: str, hints: dict[str, str], otherwise: str
) -> str | None:
    if not wrong:
        return None
    names = [name for name, _ in options]
    secret = min((names.index(each) for each in _SECRETS if each in names), default=len(names))
    if "@" in query or any(names.index(name) > secret for name in wrong):
        return "an option is not known, and may be a part of the password: in it ? is written %3F and & %26"
    each = [f"{name[:40]} ({hints.get(name, f'{otherwise}: {_LEAVE_OUT}')})" for name in dict.fromkeys(wrong)]
    return f"without the {'option' if len(each) == 1 else 'options'} {', '.join(each)}"
