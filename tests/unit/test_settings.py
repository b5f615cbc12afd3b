"""Settings: who beats whom, every problem at once, and no secret in any text."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.errors import Misconfigured
from dispatcher.core.layout import Route
from dispatcher.core.redis_url import read_redis_url
from dispatcher.settings import Settings, describe, unknown_variables
from dispatcher.settings.fields import Secret

URLS = {"DATABASE_URL": "postgresql://app@db/app", "REDIS_URL": "redis://cache:6379/0"}
SECRET = "hunter2hunter2"

# From the runbook's table and DESIGN's list.
DEFAULTS = {
    "enabled": False,
    "stream_name": "sanctum:messages",
    "stream_maxlen": 1_000_000,
    "tick_ms": 100,
    "batch_size": 512,
    "max_attempts": 10,
    "backoff_base_ms": 250,
    "backoff_max_ms": 60_000,
    "lease_ms": 30_000,
    "publish_timeout_ms": 5_000,
    "connect_timeout_ms": 10_000,
    "query_timeout_ms": 30_000,
    "shutdown_grace_ms": 10_000,
    "canary_percent": 100,
    "max_payload_bytes": 1_048_576,
    "outbox_retention_days": 7,
    "dlq_retention_days": 30,
    "http_enabled": True,
    "http_host": "::",
    "http_port": 8080,
    "api_token": None,
    "log_level": "INFO",
}


def problems(env: Mapping[str, str], flags: Mapping[str, object] | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        Settings.load({**URLS, **env}, flags or {})
    return str(caught.value)


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings.load(URLS, {})
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert settings.listen_url == settings.database_url == URLS["DATABASE_URL"]


NUMBERS = [
    ("DISPATCH_TICK_MS", "tick_ms", 1, 60_000),
    ("DISPATCH_BATCH_SIZE", "batch_size", 1, 10_000),
    ("DISPATCH_HTTP_PORT", "http_port", 0, 65_535),
    ("DISPATCH_CANARY_PERCENT", "canary_percent", 0, 100),
    ("OUTBOX_RETENTION_DAYS", "outbox_retention_days", 1, 36_500),
]


@given(case=st.sampled_from(NUMBERS), data=st.data())
def test_flag_beats_environment_beats_default(case: tuple[str, str, int, int], data: st.DataObject) -> None:
    variable, attribute, low, high = case
    in_env = data.draw(st.none() | st.integers(low, high))
    in_flag = data.draw(st.none() | st.integers(low, high))
    env = URLS if in_env is None else {**URLS, variable: str(in_env)}
    settings = Settings.load(env, {attribute: None if in_flag is None else str(in_flag)})
    expected = next(value for value in (in_flag, in_env, DEFAULTS[attribute]) if value is not None)
    assert getattr(settings, attribute) == expected


@given(case=st.sampled_from(NUMBERS), data=st.data())
def test_a_number_outside_its_limits_is_refused_with_the_limits(
    case: tuple[str, str, int, int], data: st.DataObject
) -> None:
    variable, _, low, high = case
    value = data.draw(st.integers(max_value=low - 1) | st.integers(min_value=high + 1))
    text = problems({variable: str(value)})
    assert text.startswith(f"{variable} is '")
    assert f"a whole number from {low} to {high}" in text


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_unset(text: str) -> None:
    settings = Settings.load({**URLS, "DISPATCH_TICK_MS": text, "DISPATCH_LISTEN_URL": text}, {})
    assert settings.tick_ms == 100
    assert settings.listen_url == URLS["DATABASE_URL"]


@pytest.mark.parametrize("text", ["1.5", "1e3", "0x10", "1_000", "٣", "ten", "+", "1 0"])
def test_a_number_is_written_in_digits(text: str) -> None:
    assert "DISPATCH_TICK_MS" in problems({"DISPATCH_TICK_MS": text})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("1", True),
        ("0", False),
        ("Yes", True),
        ("no", False),
        ("on", True),
        (" off ", False),
    ],
)
def test_yes_and_no_in_everybodys_words(text: str, value: bool) -> None:
    assert Settings.load({**URLS, "DISPATCHER_ENABLED": text}, {}).enabled is value


def test_every_problem_is_reported_at_once_naming_where_it_came_from() -> None:
    env = {
        "REDIS_URL": "",
        "DATABASE_URL": "mysql://db/app",
        "DISPATCHER_ENABLED": "maybe",
        "DISPATCH_TICK_MS": "0",
        "DISPATCH_BATCH_SIZE": "many",
        "DISPATCH_LEASE_MS": "6000",
        "DISPATCH_LOG_LEVEL": "loud",
    }
    lines = problems(env, {"http_port": "99999", "tick_ms": None}).splitlines()
    assert lines[0] == "8 settings are wrong:"
    assert [line.split()[0] for line in lines[1:]] == [
        "DISPATCHER_ENABLED",
        "DATABASE_URL",
        "REDIS_URL",
        "DISPATCH_TICK_MS",
        "DISPATCH_BATCH_SIZE",
        "--http-port",
        "DISPATCH_LOG_LEVEL",
        "DISPATCH_LEASE_MS",
    ]


def test_what_does_not_fit_together_is_refused() -> None:
    assert "DISPATCH_PUBLISH_TIMEOUT_MS is 26000" in problems({"DISPATCH_PUBLISH_TIMEOUT_MS": "26000"})
    assert "DISPATCH_BACKOFF_BASE_MS is 61000" in problems({"DISPATCH_BACKOFF_BASE_MS": "61000"})
    Settings.load({**URLS, "DISPATCH_PUBLISH_TIMEOUT_MS": "25000"}, {})


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h:5433/d",
        "postgresql://h1:5432,h2:5433/d?target_session_attrs=read-write",
        "postgresql:///d?host=/run/postgresql",
        "host=localhost port=5432 dbname=outbox user=postgres password='a b'",
        "postgresql://u:p%40ss@[::1]/d",
    ],
)
def test_postgres_urls_that_libpq_takes(url: str) -> None:
    assert Settings.load({**URLS, "DATABASE_URL": url}, {}).database_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://u:p@h:6380/3",
        "redis://:p@[::1]:6379?db=2",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:26379,b/orders",
        "redis+sentinel://u:p%40@a,[::1]:26380/orders.eu/3?sentinel_username=s&sentinel_password=t&health_check_interval=1",
        "rediss+sentinel://:p@a/orders?ssl_cert_reqs=none",
        "redis+cluster://u:p@a:7000,b:7001,a:7000",
        "rediss+cluster://a",
    ],
)
def test_redis_urls_that_are_taken(url: str) -> None:
    assert Settings.load({**URLS, "REDIS_URL": url}, {}).redis_url == url


BROKEN_DATABASES = [
    "mysql://u:{0}@h/d",
    "postgresql+asyncpg://u:{0}@h/d",
    "postgresql://u:{0}%@h/d",
    "postgresql://u:{0}@h:0/d",
    "postgresql://u:p@{0}@h/d",
    "postgresql://u:{0}@h:123456/d",
    "host=h password='{0}",
    "u:{0}@h",
    "{0}",
    "postgresql://u:{0}\udc80@h/d",
]
BROKEN_REDIS = [
    "http://u:{0}@h",
    "redis://:{0}@",
    "redis://u:{0}",
    "redis://:{0}@h:0",
    "redis://:{0}@h:port",
    "redis://:{0}@h/db",
    "redis://[:{0}@h",
    "unix://",
    "{0}@h",
    "redis://:{0}@a,b:6379/0",
    "redis+sentinel://:{0}@a:26379",
    "redis+sentinel://:{0}@a:26379/orders/x",
    "redis+sentinel://:{0}@a:port/orders",
    "redis+sentinel://:{0}@a:0,b/orders",
    "redis+sentinel://:{0}@/orders",
    "redis+sentinel://:{0}/x@a/orders",
    "redis+sentinel://a/orders?sentinel_password={0}&frob=1",
    "redis+cluster://:{0}@a:7000/1",
    "redis+cluster://:{0}@a:7000?db=1",
    "redis+cluster://:{0}@a,,b",
]


@pytest.mark.parametrize(
    ("variable", "query", "said"),
    [
        ("DATABASE_URL", "schema=public", "without the option schema (leave it out: our tables"),
        ("DATABASE_URL", "pgbouncer=true&connection_limit=1", "without the options pgbouncer (leave it out: a pooler"),
        ("DATABASE_URL", "ssl=false", "ssl (write sslmode="),
        ("DATABASE_URL", "frob=1", "frob (libpq has no such option"),
        ("DISPATCH_LISTEN_URL", "sslMode=require", "sslMode (libpq has no such option"),
        ("REDIS_URL", "ssl=true", "ssl (write rediss:// for redis://)"),
        ("REDIS_URL", "sentinel=a", "sentinel (write redis+sentinel://host:26379,host2:26379/service)"),
        ("REDIS_URL", "tls=1", "tls (write rediss://"),
        ("REDIS_URL", "sslmode=require", "sslmode (write rediss://"),
        ("REDIS_URL", "ssl_cert_reqs=none", "ssl_cert_reqs (write rediss://"),
        ("REDIS_URL", "virtual_host=0", "virtual_host (write the number"),
        ("REDIS_URL", "frob=1", "frob (redis-py has no such option"),
    ],
)
def test_an_option_that_is_not_known_is_named_with_what_to_write(variable: str, query: str, said: str) -> None:
    place = "redis://u:{}@h:6379/0" if variable == "REDIS_URL" else "postgresql://u:{}@h/d"
    text = problems({variable: f"{place.format(SECRET)}?{query}"})
    assert said in text
    assert SECRET not in text


def test_several_hosts_name_the_kinds_that_have_them() -> None:
    text = problems({"REDIS_URL": f"redis://:{SECRET}@a:7000,b:7001/0"})
    assert text.endswith("; several hosts belong in redis+cluster:// or redis+sentinel://")


@pytest.mark.parametrize("scheme", ["redis-sentinel", "sentinel", "redis-cluster", "rediscluster"])
def test_schemes_of_other_libraries_name_ours(scheme: str) -> None:
    text = problems({"REDIS_URL": f"{scheme}://:{SECRET}@a:7000/0"})
    assert "write redis+cluster:// or redis+sentinel://" in text
    assert SECRET not in text


def test_what_a_url_of_sentinels_says() -> None:
    read = read_redis_url("rediss+sentinel://u:p%40@a,[::1]:26380/orders/3?sentinel_password=t%26&ssl_cert_reqs=none")
    assert (read.kind, read.service, read.addresses) == ("sentinel", "orders", (("a", 26379), ("::1", 26380)))
    assert (read.sentinel_username, read.sentinel_password) == (None, "t&")
    assert read.server_url == "rediss://u:p%40@a:26379/3?ssl_cert_reqs=none"
    assert "t&" not in repr(read)


def test_certificate_checks_as_celery_writes_them() -> None:
    text = problems({"REDIS_URL": "rediss://h/0?ssl_cert_reqs=CERT_NONE"})
    assert "ssl_cert_reqs (write none, optional or required, without CERT_)" in text


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://u@h/d?password=a&{0}=b"),
        ("DATABASE_URL", "postgresql://u@h/d?x={0}@y"),
        ("REDIS_URL", "redis://h/0?password=a&{0}=b"),
        ("REDIS_URL", "redis://h/0?a&{0}@h"),
    ],
)
def test_an_option_that_may_be_a_part_of_the_password_is_not_named(variable: str, url: str) -> None:
    text = problems({variable: url.format(SECRET)})
    assert "may be a part of the password" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("variable", "attribute", "url"),
    [
        ("DATABASE_URL", "database_url", "postgresql://u:pa?ss@h/d?sslmode=require&ssl=true&options=-c%20a.b%3D1"),
        ("REDIS_URL", "redis_url", "rediss://h/0?ssl_cert_reqs=none&socket_timeout=5"),
        ("REDIS_URL", "redis_url", "redis://h?db=3&health_check_interval=30"),
    ],
)
def test_options_that_are_known(variable: str, attribute: str, url: str) -> None:
    assert getattr(Settings.load({**URLS, variable: url}, {}), attribute) == url


@pytest.mark.parametrize(
    ("variable", "url"),
    [("DATABASE_URL", url) for url in BROKEN_DATABASES]
    + [("DISPATCH_LISTEN_URL", url) for url in BROKEN_DATABASES]
    + [("REDIS_URL", url) for url in BROKEN_REDIS],
)
def test_a_broken_url_is_refused_without_its_password(variable: str, url: str) -> None:
    url = url.format(SECRET)
    text = problems({variable: url})
    assert text.startswith(f"{variable} is '")
    assert SECRET not in text


@given(token=st.text(alphabet=st.characters(codec="utf-8")))
def test_a_broken_token_is_never_shown(token: str) -> None:
    assert SECRET not in problems({"DISPATCH_API_TOKEN": f"{SECRET} x{token}"})


@pytest.mark.parametrize(
    ("variable", "attribute", "value"),
    [
        ("DISPATCH_API_TOKEN", "api_token", SECRET),
        ("DISPATCH_STREAM_NAME", "stream_name", "sanctum:messages"),
        ("DISPATCH_HTTP_HOST", "http_host", "127.0.0.1"),
        ("DISPATCH_HANDLERS", "handlers", "shop.handlers"),
        ("DISPATCH_TICK_MS", "tick_ms", 100),
        ("DISPATCH_LOG_LEVEL", "log_level", "INFO"),
        ("DATABASE_URL", "database_url", URLS["DATABASE_URL"]),
        ("REDIS_URL", "redis_url", URLS["REDIS_URL"]),
        ("DISPATCH_ROUTES", "routes", "order.*=orders"),
        ("DISPATCH_BACKPRESSURE_EXCEPT", "backpressure_except", "web-*"),
        ("DISPATCH_HTTP_ALLOWED_HOSTS", "http_allowed_hosts", "*.internal"),
    ],
)
def test_a_newline_at_the_end_is_left_out_and_quotes_are_refused(variable: str, attribute: str, value: object) -> None:
    """Secrets are made with `echo`, files of variables on Windows; Docker takes quotes for a part of the value."""
    for end in ("\n", "\r\n", "\r", " "):
        found = getattr(Settings.load(URLS | {variable: f"{value}{end}"}, {}), attribute)
        assert found in (value, (value,), (Route("order.*", "orders"),))
    for quote in ("'", '"'):
        text = problems({variable: f"{quote}{value}{quote}"})
        assert text.startswith(f"{variable} is ")
        assert text.endswith(", without quotes around it")


def test_what_kubernetes_sets_for_a_service_is_not_obeyed() -> None:
    env = URLS | {"DISPATCH_HTTP_PORT": "tcp://10.0.0.1:8080", "DISPATCH_HTTP_SERVICE_HOST": "10.0.0.1"}
    assert Settings.load(env, {}).http_port == DEFAULTS["http_port"]
    [warning] = unknown_variables(env)
    assert warning.startswith("DISPATCH_HTTP_PORT was set by Kubernetes for a Service and is not obeyed")
    assert "a whole number" in problems({"DISPATCH_HTTP_PORT": "tcp://10.0.0.1"})


def test_variables_are_read_in_utf_8_whatever_the_locale_is() -> None:
    child = (
        "from dispatcher.settings import Settings; import os; print(ascii(Settings.load(os.environ, {}).stream_name))"
    )
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env = dict(os.environ) | URLS | locale | {"DISPATCH_STREAM_NAME": "über:ß"}
    ran = subprocess.run([sys.executable, "-c", child], env=env, capture_output=True, text=True)
    assert ran.stdout.strip() == ascii("über:ß"), ran.stderr


def test_no_secret_in_repr_or_str() -> None:
    env = {
        "DATABASE_URL": f"postgresql://u:{SECRET}@h/d",
        "REDIS_URL": f"redis://:{SECRET}@h",
        "DISPATCH_API_TOKEN": SECRET,
    }
    settings = Settings.load(env, {})
    assert settings.api_token == SECRET
    assert SECRET not in repr(settings) + str(settings)


def test_dispatchbox_flags_keep_their_meaning() -> None:
    flags = {"dsn": "host=localhost dbname=outbox", "poll_interval": "0.5", "batch_size": "20", "disable_http": True}
    settings = Settings.load(URLS, flags)
    assert (settings.database_url, settings.tick_ms, settings.batch_size) == ("host=localhost dbname=outbox", 500, 20)
    assert not settings.http_enabled
    assert Settings.load(URLS, {"disable_http": False}).http_enabled


@pytest.mark.parametrize("text", ["0", "-1", "61", "nan", "inf", "soon", "1e400"])
def test_a_poll_interval_that_makes_no_sense(text: str) -> None:
    assert problems({}, {"poll_interval": text}) == (
        f"--poll-interval is '{text}': it must be a number of seconds from 0.001 to 60"
    )


def test_two_flags_for_one_setting_are_refused() -> None:
    text = problems({}, {"tick_ms": "50", "poll_interval": "0.5"})
    assert text == "--tick-ms and --poll-interval are the same setting: give one of them"


def test_postgres_url_stands_in_for_database_url() -> None:
    env = {"REDIS_URL": URLS["REDIS_URL"], "POSTGRES_URL": "postgresql://two/d"}
    assert Settings.load(env, {}).database_url == "postgresql://two/d"
    assert Settings.load({**env, "DATABASE_URL": "postgresql://one/d"}, {}).database_url == "postgresql://one/d"


def test_settings_are_frozen_and_closed() -> None:
    settings = Settings.load(URLS, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.tick_ms = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(database_url="host=x", redis_url="redis://x", tick=5)  # type: ignore[call-arg]


def test_a_command_may_ask_for_a_few_settings_only() -> None:
    env = {"DATABASE_URL": "host=db", "DISPATCH_TICK_MS": "nonsense"}
    assert Settings.load_some(["database_url", "connect_timeout_ms"], env, {}) == {
        "database_url": "host=db",
        "connect_timeout_ms": 10_000,
    }


def test_a_variable_that_is_none_of_ours_is_pointed_out_without_its_value() -> None:
    env = {
        "DISPATCH_BATCHSIZE": SECRET,
        "DISPATCHER_ENABLE": "true",
        "DISPATCH_WHATEVER": "1",
        "DISPATCH_EMPTY": "",
        "DISPATCH_TICK_MS": "5",
        # What Kubernetes sets for services called dispatch and dispatcher.
        "DISPATCH_SERVICE_HOST": "10.0.0.1",
        "DISPATCH_PORT_80_TCP_ADDR": "10.0.0.1",
        "DISPATCHER_PORT": "tcp://10.0.0.1:80",
        "DISPATCHER_SERVICE_PORT_HTTP": "80",
    }
    warnings = unknown_variables(env)
    assert [line.split()[0] for line in warnings] == ["DISPATCHER_ENABLE", "DISPATCH_BATCHSIZE", "DISPATCH_WHATEVER"]
    assert "did you mean DISPATCHER_ENABLED?" in warnings[0]
    assert "did you mean DISPATCH_BATCH_SIZE?" in warnings[1]
    assert SECRET not in "".join(warnings)


def test_a_slip_in_a_name_without_our_prefix_is_pointed_out() -> None:
    """OUTBOX_RETENTION_DAY=1 kept the rows for 7 days; DISPATCHER_HTTP_PORT=9000 looked like a word of Kubernetes."""
    slips = {
        "OUTBOX_RETENTION_DAY": "OUTBOX_RETENTION_DAYS",
        "REDIS_STREAM_MAX_LEN": "REDIS_STREAM_MAXLEN",
        "DATABASE_URI": "DATABASE_URL",
        "REDIS_URI": "REDIS_URL",
        "DLQ_RETENITON_DAYS": "DLQ_RETENTION_DAYS",
        "DISPTCH_TICK_MS": "DISPATCH_TICK_MS",
        "DISPATCHER_HTTP_PORT": "DISPATCH_HTTP_PORT",
    }
    for slip, meant in slips.items():
        [warning] = unknown_variables({slip: "9000"})
        assert warning == f"{slip} is set, but this version has no such setting; did you mean {meant}?"


def test_variables_of_other_programs_are_not_pointed_out() -> None:
    others = ("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDIS_TLS_URL", "REDIS_HOST", "REDIS_PORT")
    more = ("DATABASE_HOST", "DATABASE_NAME", "DB_URL", "OUTBOX_TABLE", "RETENTION_DAYS", "DISPATCHER_ID", "PORT")
    assert unknown_variables(dict.fromkeys((*others, *more), "1")) == []
    # The application's own, beside the setting that it resembles.
    near = {"DATABASE_URI": "1", "POSTGRES_URI": "1", "REDIS_URI": "1"}
    assert unknown_variables(URLS | near | {"DISPATCHER_HTTP_PORT": "tcp://10.0.0.1:80"}) == []
    assert unknown_variables(near, {"dsn": "host=db", "redis_url": "redis://r"}) == []


def test_the_table_describes_every_setting_once() -> None:
    rows = describe()
    assert len(rows) == len(Settings.table())
    variables = [row.env for row in rows if row.env]
    assert len(variables) == len(set(variables)) == len(rows) - 1
    assert all(row.flag.startswith("--") and row.wanted and row.help.endswith(".") for row in rows)
    by_flag = {row.flag: row for row in rows}
    assert by_flag["--tick-ms"].default == "100"
    assert by_flag["--database-url"].default == ""
    assert by_flag["--log-format"].default == "json; text on a terminal"


def test_the_real_environment_is_a_mapping_it_takes() -> None:
    assert Settings.load({**os.environ, **URLS}, {}).redis_url == URLS["REDIS_URL"]


FILES = [
    ("DATABASE_URL", "database_url", f"postgresql://u:{SECRET}@h/d"),
    ("POSTGRES_URL", "database_url", f"postgresql://u:{SECRET}@h/d"),
    ("DISPATCH_LISTEN_URL", "listen_url", f"postgresql://u:{SECRET}@h/d"),
    ("REDIS_URL", "redis_url", f"redis://:{SECRET}@h:6379/1"),
    ("DISPATCH_API_TOKEN", "api_token", SECRET),
]


def without(variable: str) -> dict[str, str]:
    """The two URLs that must be set, but for the one that is to come from a file."""
    gone = {variable, "DATABASE_URL"} if variable == "POSTGRES_URL" else {variable}
    return {name: value for name, value in URLS.items() if name not in gone}


@pytest.mark.parametrize(("variable", "attribute", "secret"), FILES)
def test_a_secret_comes_from_a_file_and_is_read_again(
    variable: str, attribute: Secret, secret: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"  {secret}\n")
    settings = Settings.load(without(variable) | {f"{variable}_FILE": str(file)}, {})
    assert getattr(settings, attribute) == settings.current(attribute) == secret
    file.write_text(secret.replace(SECRET, "rotated"))
    assert settings.current(attribute) == secret.replace(SECRET, "rotated")
    file.unlink()
    with pytest.raises(Misconfigured, match=f"^{variable}_FILE is '{file}': this file cannot be read"):
        settings.current(attribute)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(("variable", "attribute", "secret"), FILES)
def test_the_variable_and_its_file_are_not_both_set(variable: str, attribute: str, secret: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(secret)
    env = without(variable) | {variable: secret, f"{variable}_FILE": str(file)}
    with pytest.raises(Misconfigured) as caught:
        Settings.load(env, {})
    assert str(caught.value) == f"{variable} and {variable}_FILE are both set: unset one of them"
    Settings.load(env | {variable: " "}, {})  # an empty variable is unset
    assert getattr(Settings.load(env, {attribute: secret}), attribute) == secret  # a flag beats both


def test_what_is_no_secret_comes_from_no_file(tmp_path: Path) -> None:
    file = tmp_path / "tick"
    file.write_text("7")
    assert Settings.load({**URLS, "DISPATCH_TICK_MS_FILE": str(file)}, {}).tick_ms == 100


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "this file is empty"),
        (b" \n", "this file is empty"),
        (b"\xff\xfe", "this file is not UTF-8 text"),
        (b"x" * 70_000, "this file is larger than 65536 bytes"),
        (f"mysql://u:{SECRET}@h/d".encode(), "the content of this file must be a postgresql:// URL or libpq"),
    ],
)
def test_a_file_of_no_use_is_named_without_its_content(content: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    text = problems({"DATABASE_URL": "", "DATABASE_URL_FILE": str(file)})
    assert text.startswith(f"DATABASE_URL_FILE is '{file}': {complaint}")
    assert SECRET not in text


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, complaint in (
        (".", "is no regular file"),
        ("pipe", "is no regular file"),
        ("none", "cannot be read (No"),
    ):
        assert complaint in problems({"DATABASE_URL": "", "DATABASE_URL_FILE": str(tmp_path / name)})


@pytest.mark.parametrize("secret", [f"postgresql://u:{SECRET}@h/d", f"/:{SECRET}@h://", SECRET, f"{SECRET}/{SECRET}="])
def test_a_secret_in_the_place_of_its_files_name_is_not_shown(secret: str) -> None:
    text = problems({"DISPATCH_API_TOKEN_FILE": secret})
    assert text.startswith("DISPATCH_API_TOKEN_FILE is '***': this file cannot be read")
    assert SECRET not in text


def test_the_listen_url_follows_the_file_of_the_database_url(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("host=one")
    env = {"REDIS_URL": URLS["REDIS_URL"], "DATABASE_URL_FILE": str(file)}
    settings = Settings.load(env, {})
    of_its_own = Settings.load({**env, "DISPATCH_LISTEN_URL": "host=direct"}, {})
    file.write_text("host=two")
    assert (settings.current("database_url"), settings.current("listen_url")) == ("host=two", "host=two")
    assert of_its_own.current("listen_url") == "host=direct"


def test_a_command_takes_a_secret_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("host=one")
    assert Settings.load_some(["database_url"], {"POSTGRES_URL_FILE": str(file)}, {}) == {"database_url": "host=one"}


def test_the_variables_of_files_are_known() -> None:
    names = ["DISPATCH_LISTEN_URL_FILE", "DISPATCH_API_TOKEN_FILE", "DISPATCH_TICK_MS_FILE"]
    assert [line.split()[0] for line in unknown_variables(dict.fromkeys(names, "/x"))] == ["DISPATCH_TICK_MS_FILE"]


def test_redis_is_needed_unless_nothing_goes_to_the_stream() -> None:
    urls = {"DATABASE_URL": URLS["DATABASE_URL"]}
    with pytest.raises(Misconfigured, match="REDIS_URL is not set"):
        Settings.load(urls, {})
    with pytest.raises(Misconfigured, match="REDIS_URL is not set"):
        Settings.load(urls | {"DISPATCH_UNROUTED": "stream", "DISPATCH_HANDLERS": "shop"}, {})
    settings = Settings.load(urls | {"DISPATCH_HANDLERS": "shop.handlers:MINE"}, {"unrouted": "DEAD"})
    assert (settings.redis_url, settings.unrouted) == ("", "dead")
    assert "every event would be buried" in problems({"DISPATCH_UNROUTED": "dead"})


@pytest.mark.parametrize("module", ["shop handlers", "shop/handlers.py", "shop:", ":HANDLERS", "1shop", "shop.:a"])
def test_handlers_are_named_as_a_module(module: str) -> None:
    assert "it must be a module such as shop.handlers" in problems({"DISPATCH_HANDLERS": module})


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://me:secret@grafana/d", "grafana/d", "ftp://grafana"])
def test_the_dashboard_is_an_address_that_a_browser_may_be_sent_to(url: str) -> None:
    said = problems({"DISPATCH_GRAFANA_URL": url})
    assert "DISPATCH_GRAFANA_URL" in said
    assert "secret" not in said
    assert "without a password" in said


def test_the_name_of_a_deployment_is_any_text() -> None:
    env = URLS | {"DISPATCH_DEPLOYMENT": "Bücher, Produktion", "DISPATCH_GRAFANA_URL": "https://g.example.com/d/x?a=b"}
    settings = Settings.load(env, {})
    assert (settings.deployment, settings.grafana_url) == ("Bücher, Produktion", "https://g.example.com/d/x?a=b")
    assert "DISPATCH_DEPLOYMENT" in problems({"DISPATCH_DEPLOYMENT": "x" * 81})


def test_a_mark_that_windows_puts_before_the_text_is_no_part_of_it(tmp_path: Path) -> None:
    for variable, value in (("DATABASE_URL", URLS["DATABASE_URL"]), ("DISPATCH_API_TOKEN", SECRET)):
        file = tmp_path / variable
        file.write_bytes(b"\xef\xbb\xbf" + value.encode() + b"\r\n")
        env = {name: one for name, one in URLS.items() if name != variable} | {f"{variable}_FILE": str(file)}
        settings = Settings.load(env, {})
        assert value in (settings.database_url, settings.api_token)


@pytest.mark.parametrize("seen", ["sanctum:messages\u200b", "\ufeffsanctum:messages", "sanctum:\u00a0messages"])
def test_a_name_with_what_cannot_be_seen_is_refused(seen: str) -> None:
    assert problems({"DISPATCH_STREAM_NAME": seen}).endswith("; one of these cannot be seen")
