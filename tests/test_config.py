"""Loading the configuration: where values come from, what is refused and in which words."""

import os
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aibrother_node.config import Loaded, NodeConfig, StoreSection, load_config, reloadable_changes
from aibrother_node.config.effect import IN_EFFECT, RELOADABLE
from aibrother_node.config.explain import explain
from aibrother_node.config.layers import Layers
from aibrother_node.config.schema import keys_of_section
from aibrother_node.errors import ConfigurationError

GIB = 1024**3

Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load `text` as ./node.toml (none if it is None) with the given variables."""

    def loader(text: str | None = None, environ: Mapping[str, str] | None = None, **options: Any) -> Loaded:
        if text is not None:
            (tmp_path / "node.toml").write_text(text, encoding="utf-8")
        return load_config(
            config=options.pop("config", None),
            data=options.pop("data", None),
            environ=environ or {},
            cwd=tmp_path,
            **options,
        )

    return loader


@pytest.fixture
def faults(load: Load) -> Callable[..., list[str]]:
    """Load what can't be loaded; give the faults."""

    def loader(*args: Any, **options: Any) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(*args, **options)
        return caught.value.faults

    return loader


Faults = Callable[..., list[str]]


# Which file


def test_without_a_file_the_defaults_hold(load: Load, tmp_path: Path) -> None:
    loaded = load()
    assert (loaded.source, loaded.path, loaded.warnings, loaded.origins) == ("built-in defaults", None, [], {})
    config = loaded.config
    assert config.node.data == tmp_path / "data"
    assert config.keys_dir == tmp_path / "data" / "keys"
    assert config.public.host == ("::", "0.0.0.0")
    assert (config.public.port, config.control.port, config.fleet.port) == (8080, 8081, 8082)
    assert config.control.host == ("127.0.0.1",)
    assert config.public.workers >= 1
    assert config.public.cors_origins == ("*",)
    assert config.policy.channels == ("stable",)
    assert config.node.drain_seconds == 30
    assert config.replicator.interval == 300


@pytest.mark.parametrize(
    ("named", "variable", "data", "expected"),
    [
        ("a.toml", "b.toml", "there", "a.toml"),
        (None, "b.toml", "there", "b.toml"),
        (None, None, "there", "there/node.toml"),
        (None, "", "there", "there/node.toml"),
        (None, None, "empty", "node.toml"),
        (None, None, None, "node.toml"),
    ],
)
def test_the_first_file_in_order_is_taken(
    load: Load, tmp_path: Path, named: str | None, variable: str | None, data: str | None, expected: str
) -> None:
    (tmp_path / "there").mkdir()
    for name in ("a.toml", "b.toml", "there/node.toml", "node.toml"):
        (tmp_path / name).write_text(f'[node]\nregion = "{name.replace("/", "-")}"\n')
    loaded = load(
        config=Path(named) if named else None,
        data=Path(data) if data else None,
        environ={} if variable is None else {"AIBROTHER_CONFIG": variable},
    )
    assert loaded.config.node.region == expected.replace("/", "-")
    assert loaded.source == expected
    assert loaded.path == tmp_path / expected


def test_a_named_file_must_exist(faults: Faults) -> None:
    assert faults(config=Path("no.toml")) == ["no.toml: there is no such file (--config)"]
    assert faults(environ={"AIBROTHER_CONFIG": "no.toml"}) == ["no.toml: there is no such file (AIBROTHER_CONFIG)"]


def test_an_implied_file_that_cannot_be_read_is_not_skipped(faults: Faults, tmp_path: Path) -> None:
    (tmp_path / "node.toml").mkdir()
    assert faults() == ["node.toml: can't be read: Is a directory"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[node]\nregion = \n", "node.toml:2:10: "),
        (b"[node]\nregion = 'eu", "node.toml:2:13: "),
        (b"[node]\n[node]\n", "node.toml:2:6: "),
        (b"[node]\nregion = 'r\xff'\n", "node.toml:2:12: is not UTF-8"),
        (b"#" * (1024**2 + 1), "node.toml: has more than 1048576 bytes, so it is no configuration"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_place(faults: Faults, tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "node.toml").write_bytes(content)
    (found,) = faults()
    # The words after the place are Python's, and change with it.
    assert found.startswith(fault)
    assert not found.endswith(": ")


def test_a_syntax_error_does_not_hide_the_faults_of_variables(faults: Faults) -> None:
    assert faults("[", {"AIBROTHER_PUBLIC__PORT": "x"})[1:] == [
        "AIBROTHER_PUBLIC__PORT: public.port: must be a whole number, not 'x'"
    ]


# What wins


def test_later_layers_win(load: Load, tmp_path: Path) -> None:
    text = '[node]\ndata = "file"\n[public]\nport = 1\nworkers = 1\n[log]\nlevel = "error"\n'
    environ = {"AIBROTHER_NODE__DATA": "variable", "AIBROTHER_PUBLIC__PORT": "2", "AIBROTHER_PUBLIC__WORKERS": "2"}
    loaded = load(text, environ, data=Path("option"), overrides={"public.port": 3, "log.level": "debug"})
    assert loaded.config.node.data == tmp_path / "option"
    assert loaded.config.public.port == 3
    assert loaded.config.public.workers == 2
    assert loaded.origins == {
        "node.data": "--data",
        "public.port": "--port",
        "public.workers": "AIBROTHER_PUBLIC__WORKERS",
        "log.level": "--log-level",
    }


def test_options_are_checked_too(faults: Faults) -> None:
    assert faults(overrides={"public.port": 70_000}) == ["--port: public.port: must be at most 65,535, not 70000"]


def test_relative_paths_start_where_they_were_written(load: Load, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/node.toml").write_text(
        '[node]\ndata = "d"\n[public]\ntls_certificate = "/tls/c"\ntls_key = "../k"\n[log]\naccess_log = "access"\n'
    )
    loaded = load(config=Path("etc/node.toml"), environ={"AIBROTHER_CATALOG__KEYS_DIR": "keys"})
    config = loaded.config
    assert config.node.data == tmp_path / "etc/d"
    assert config.public.tls_certificate == Path("/tls/c")
    assert config.public.tls_key == tmp_path / "etc/../k"
    assert config.log.access_log == str(tmp_path / "etc/access")
    assert config.keys_dir == config.catalog.keys_dir == tmp_path / "keys"


@pytest.mark.parametrize("value", ["", "-"])
def test_words_in_the_place_of_a_path_stay(load: Load, value: str) -> None:
    assert load(f'[log]\naccess_log = "{value}"\n').config.log.access_log == value


def test_credentials_come_from_systemd(load: Load, faults: Faults) -> None:
    text = '[public]\ntls_certificate = "credential:c"\ntls_key = "credential:k"\n'
    config = load(text, {"CREDENTIALS_DIRECTORY": "/run/credentials/n"}).config
    assert config.public.tls_certificate == Path("/run/credentials/n/c")
    assert config.public.tls_key == Path("/run/credentials/n/k")
    assert faults('[catalog]\npassphrase_file = "credential:p"\n') == [
        (
            "node.toml: catalog.passphrase_file: 'credential:p' needs $CREDENTIALS_DIRECTORY, "
            "which systemd sets where the unit has LoadCredential="
        )
    ]
    for name in ("", "..", "a/b"):
        (fault,) = faults(f'[catalog]\npassphrase_file = "credential:{name}"\n', {"CREDENTIALS_DIRECTORY": "/run"})
        assert "names no credential" in fault


# Variables


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PUBLIC__PORT", "0", 0),
        ("PUBLIC__HOST", "::1", ("::1",)),
        ("PUBLIC__HOST", "::1, 127.0.0.1", ("::1", "127.0.0.1")),
        ("PUBLIC__HOST", '["::1", "localhost"]', ("::1", "localhost")),
        ("PUBLIC__TRUSTED_PROXIES", "", ()),
        ("PUBLIC__TRUSTED_PROXIES", "10.0.0.0/8,::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("PUBLIC__CORS_ORIGINS", "*", ("*",)),
        ("POLICY__WANTS", "pinned", "pinned"),
        ("POLICY__WANTS", "phi-2,gemma:q4_k_m", ("phi-2", "gemma:q4_k_m")),
        ("POLICY__WANTS", '["phi-2"]', ("phi-2",)),
        ("POLICY__CHANNELS", "stable,staging", ("stable", "staging")),
        ("CATALOG__SIGNER", "yes", True),
        ("CATALOG__SIGNER", "Off", False),
        ("STORE__RESERVE", "2 GiB", 2 * GIB),
        ("STORE__RESERVE", "1024", 1024),
        ("STORE__RESERVE", "auto", None),
        ("LIMITS__SEND_TIMEOUT", "90", 90.0),
        ("LIMITS__SEND_TIMEOUT", "1m30s", 90.0),
        ("LOG__LEVEL", "debug", "debug"),
        ("LOG__ACCESS_LOG", "-", "-"),
    ],
)
def test_a_variable_is_read_as_its_key_is(load: Load, variable: str, text: str, expected: object) -> None:
    section, key = variable.lower().split("__")
    loaded = load(environ={f"AIBROTHER_{variable}": text})
    assert getattr(getattr(loaded.config, section), key) == expected
    assert loaded.origins[f"{section}.{key}"] == f"AIBROTHER_{variable}"


@pytest.mark.parametrize(
    ("variable", "text", "fault"),
    [
        ("AIBROTHER_PUBLIC__PROT", "1", "sets nothing; did you mean AIBROTHER_PUBLIC__PORT?"),
        ("AIBROTHER_PUBLIC_PORT", "1", "sets nothing; did you mean AIBROTHER_PUBLIC__PORT?"),
        ("AIBROTHER_PUBLC__PORT", "1", "sets nothing; did you mean AIBROTHER_PUBLIC__PORT?"),
        ("AIBROTHER_LIMITS__HEADER_TIMEOUT__X", "1", "sets nothing; did you mean AIBROTHER_LIMITS__HEADER_TIMEOUT?"),
        ("AIBROTHER_WHATEVER", "1", "sets nothing"),
        ("AIBROTHER___", "1", "sets nothing"),
        ("AIBROTHER_", "1", "sets nothing"),
        ("AIBROTHER_public__port", "1", "is written in capitals: AIBROTHER_PUBLIC__PORT"),
        ("AIBROTHER_UPSTREAM", "[]", "sets nothing; for upstreams it is AIBROTHER_UPSTREAM__<NAME>__<KEY>"),
        ("AIBROTHER_UPSTREAM__NAME", "x", "sets nothing; for upstreams it is AIBROTHER_UPSTREAM__<NAME>__<KEY>"),
        ("AIBROTHER_UPSTREAM__R2__NAME", "x", "the name is part of the variable; it can't be set"),
        ("AIBROTHER_UPSTREAM__R2__BUKET", "x", "sets nothing; did you mean AIBROTHER_UPSTREAM__R2__BUCKET?"),
        ("AIBROTHER_PUBLIC__PORT", "eighty", "public.port: must be a whole number, not 'eighty'"),
        ("AIBROTHER_PUBLIC__PORT", "", "public.port: must be a whole number, not ''"),
        ("AIBROTHER_CATALOG__SIGNER", "maybe", "catalog.signer: must be true or false, not 'maybe'"),
        ("AIBROTHER_PUBLIC__HOST", "", "public.host: must name at least one address"),
        ("AIBROTHER_PUBLIC__HOST", "[1", "public.host: '[1': write an IPv6 address without brackets"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(faults: Faults, variable: str, text: str, fault: str) -> None:
    assert faults(environ={variable: text}) == [f"{variable}: {fault}"]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("AIBROTHER_NODE_SERVICE_HOST", "10.0.0.1"),
        ("AIBROTHER_NODE_SERVICE_PORT", "8080"),
        ("AIBROTHER_NODE_SERVICE_PORT_HTTP", "8080"),
        ("AIBROTHER_NODE_PORT", "tcp://10.0.0.1:8080"),
        ("AIBROTHER_NODE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("AIBROTHER_NODE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("AIBROTHER_PUBLIC_PORT", "tcp://10.0.0.1:8080"),
        ("PUBLIC__PORT", "1"),
        ("aibrother_public__port", "1"),
    ],
)
def test_variables_of_others_are_left_alone(load: Load, variable: str, text: str) -> None:
    assert load(environ={variable: text}).origins == {}


UPSTREAM = '[[upstream]]\nname = "s3-eu"\nkind = "s3"\nbucket = "models"\nregion = "eu-west-1"\n'


def test_a_variable_changes_an_upstream_by_name(load: Load) -> None:
    loaded = load(UPSTREAM, {"AIBROTHER_UPSTREAM__S3_EU__BUCKET": "other", "AIBROTHER_UPSTREAM__S3_EU__PRIORITY": "5"})
    (upstream,) = loaded.config.upstream
    assert (upstream.bucket, upstream.region, upstream.priority) == ("other", "eu-west-1", 5)
    assert loaded.origins["upstream.s3-eu.bucket"] == "AIBROTHER_UPSTREAM__S3_EU__BUCKET"
    assert loaded.origins["upstream.s3-eu.region"] == "node.toml"


def test_variables_can_begin_an_upstream(load: Load, faults: Faults) -> None:
    environ = {
        "AIBROTHER_UPSTREAM__MIRROR__KIND": "http",
        "AIBROTHER_UPSTREAM__MIRROR__ENDPOINT": "https://m.example/gguf/",
    }
    loaded = load(UPSTREAM, environ)
    assert [upstream.name for upstream in loaded.config.upstream] == ["s3-eu", "mirror"]
    assert loaded.config.upstream[1].endpoint == "https://m.example/gguf"
    assert loaded.config.upstream[1].direction == "pull"
    del environ["AIBROTHER_UPSTREAM__MIRROR__KIND"]
    assert faults(UPSTREAM, environ) == ["AIBROTHER_UPSTREAM__MIRROR__ENDPOINT: upstream.mirror.kind: must be given"]


# Faults, one row each: the file's text below its section, the key, the reason


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # unknown
        ("prot = 1", "prot: there is no such section"),
        ("port = 1", "port: stands outside its section; it belongs under [public]"),
        ("[publc]", "publc: there is no such section; did you mean public?"),
        ("[public]\nprot = 1", "public.prot: there is no such key; did you mean port?"),
        ("[node]\nworkers = 1", "node.workers: there is no such key; there is one in [public]"),
        ("[log]\nxyzzy = 1", "log.xyzzy: there is no such key"),
        ("[[upstream]]\nname='a'\nkind='http'\nendpoint='http://a.example'\nbuket=''",
         "upstream.a.buket: there is no such key; did you mean bucket?"),
        ("public = 1", "public: must be a table: [public]"),
        ("[upstream]\nname = 'a'", "upstream: write [[upstream]], one for each"),
        ("upstream = [1]", "upstream[0]: write [[upstream]], one for each"),
        # types and ranges
        ("[public]\nport = '80'", "public.port: must be a whole number, not '80'"),
        ("[public]\nport = 80.0", "public.port: must be a whole number, not 80.0"),
        ("[public]\nport = -1", "public.port: must be at least 0, not -1"),
        ("[fleet]\nport = 65536", "fleet.port: must be at most 65,535, not 65536"),
        ("[public]\nworkers = true", "public.workers: must be a whole number, not True"),
        ("[public]\nworkers = 0", "public.workers: must be at least 1, not 0"),
        ("[catalog]\nsigner = 'yes'", "catalog.signer: must be true or false, not 'yes'"),
        ("[node]\nregion = 1", "node.region: must be text"),
        ("[node]\nregion = 'a b'",
         "node.region: 'a b' is not a name of at most 64 letters, digits, \".\", \"_\" and \"-\""),
        ("[node]\nlatitude = 91\nlongitude = 0", "node.latitude: must be at most 90, not 91"),
        ("[node]\nlatitude = 0\nlongitude = -180.5", "node.longitude: must be at least -180, not -180.5"),
        ("[node]\nlatitude = nan\nlongitude = 0", "node.latitude: must be a number, not nan"),
        ("[node]\nlatitude = 'north'\nlongitude = 0", "node.latitude: must be a number, not 'north'"),
        ("[node]\ndata = ''", "node.data: must name a folder"),
        ("[node]\ndata = '~/models'", 'node.data: "~" is not expanded; write the path in full'),
        ("[node]\ndata = 5", "node.data: must be text"),
        ("[node]\ndrain_seconds = '2h'", "node.drain_seconds: must be at most 3,600 seconds, not '2h'"),
        ("[limits]\nheader_timeout = 0", "limits.header_timeout: must be at least 0.1 seconds, not 0"),
        ("[limits]\nsend_timeout = 'never'",
         'limits.send_timeout: \'never\' is not a duration such as "30s" or "6h"'),
        ("[limits]\nmax_connections = 0", "limits.max_connections: must be at least 1, not 0"),
        ("[limits]\nmax_ranges = 0", "limits.max_ranges: must be at least 1, not 0"),
        ("[limits]\nmax_headers = 5", "limits.max_headers: must be at least 16, not 5"),
        ("[limits]\nmax_request_line = '1 MiB'",
         "limits.max_request_line: must be at most 65,536 bytes, not '1 MiB'"),
        ("[limits]\ndownloads_per_hour = -1", "limits.downloads_per_hour: must be at least 0, not -1"),
        ("[limits]\nbandwidth_per_client = '5 MB/h'",
         'limits.bandwidth_per_client: \'5 MB/h\' is not a rate such as "100 MB/s": a rate is by the second'),
        ("[store]\nreserve = '5 G'",
         ("store.reserve: '5 G' is not a size such as \"20 GiB\": "
          "'G' is none of B, GB (powers of 1000) and GiB (powers of 1024)")),
        ("[store]\nmax_manifest = 1", "store.max_manifest: must be at least 65,536 bytes, not 1"),
        # words
        ("[public]\non_miss = 'ask'", "public.on_miss: must be 'fill', 'redirect' or '404', not 'ask'"),
        ("[store]\nmode = 'mirorr'", "store.mode: must be 'mirror' or 'cache', not 'mirorr'"),
        ("[log]\nlevel = 'INFO'",
         "log.level: must be 'debug', 'info', 'warning', 'error' or 'critical', not 'INFO'"),
        ("[policy]\nwants = 'al'",
         "policy.wants: 'al' is neither \"all\" nor \"pinned\"; models and tags go into a list"),
        ("[policy]\nwants = ['Phi 2']", "policy.wants: 'Phi 2' is not a model, a MODEL:VARIANT or a tag"),
        ("[policy]\nwants = 3", "policy.wants: must be a list"),
        ("[policy]\nchannels = ['beta']", "policy.channels: must be 'stable' or 'staging', not 'beta'"),
        ("[policy]\nchannels = []", "policy.channels: must name at least one"),
        ("[public]\ncongestion_control = 'bbr; rm'",
         "public.congestion_control: 'bbr; rm' is not an algorithm's name such as \"bbr\""),
        # hosts, networks, origins, URLs
        ("[public]\nhost = []", "public.host: must name at least one address"),
        ("[public]\nhost = ['::', '::']", "public.host: '::' is named twice"),
        ("[public]\nhost = '[::]'", "public.host: '[::]': write an IPv6 address without brackets"),
        ("[public]\nhost = '10.0.0.256'", "public.host: '10.0.0.256' is not an address or a host name"),
        ("[public]\nhost = 5", "public.host: must be a list"),
        ("[control]\nhost = [5]", "control.host: must be text"),
        ("[public]\ntrusted_proxies = ['10.0.0.1/8']",
         "public.trusted_proxies: '10.0.0.1/8' has bits set after its prefix; did you mean '10.0.0.0/8'?"),
        ("[public]\ntrusted_proxies = ['proxy']",
         "public.trusted_proxies: 'proxy' is not an address or network such as \"10.0.0.0/8\""),
        ("[public]\ncors_origins = ['*', 'https://a.example']",
         'public.cors_origins: "*" allows every origin; name no others beside it'),
        ("[public]\ncors_origins = 'https://a.example/'",
         "public.cors_origins: 'https://a.example/' is not an origin: scheme, host and port only, no slash at the end"),
        ("[node]\npublic_url = 'models.example'",
         'node.public_url: must be a URL that begins with "http://" or "https://"'),
        ("[node]\npublic_url = 'ftp://models.example'",
         'node.public_url: must be a URL that begins with "http://" or "https://"'),
        ("[node]\npublic_url = 'https://models.example/?a=b'", "node.public_url: must have no query and no fragment"),
        ("[node]\npublic_url = 'https://models.example/#a'", "node.public_url: must have no query and no fragment"),
        ("[node]\npublic_url = 'https://u:p@models.example'",
         "node.public_url: must hold no user name and no password"),
        ("[node]\npublic_url = 'https://models.example:99999'",
         "node.public_url: is not a URL: its host or port can't be read"),
        ("[node]\npublic_url = 'https://models .example'",
         "node.public_url: must not hold spaces, control characters or backslashes"),
        ('[node]\npublic_url = "https://models.example/\\n"',
         "node.public_url: must not hold spaces, control characters or backslashes"),
        ("[node]\ngossip_url = 'https://[::1'", "node.gossip_url: is not a URL: its host or port can't be read"),
        ("[fleet]\nseeds = ['https://-.example']", "fleet.seeds: '-.example' is not an address or a host name"),
        ("[metrics]\nlisten = '9090'",
         "metrics.listen: '9090' is not \"host:port\"; an IPv6 address stands in brackets"),
        ("[alerts]\nwebhooks = ['hook']", 'alerts.webhooks: must be a URL that begins with "http://" or "https://"'),
        ("[log]\nship_to = 'syslog'", "log.ship_to: must be an http, https, tcp or udp URL"),
        ("[log]\nship_to = 'udp://logs.example'", "log.ship_to: a udp URL needs a port"),
        # half-set and contradictions
        ("[node]\nlatitude = 1.0",
         "node.longitude: is missing: latitude is set, and the two go together"),
        ("[public]\ntls_key = 'k'",
         "public.tls_certificate: is missing: tls_key is set, and the two go together"),
        ("[public]\nport = 9\n[control]\nport = 9", "control.port: 9 is taken by public.port"),
    ],
)  # fmt: skip
def test_a_fault_names_file_key_and_reason(faults: Faults, text: str, fault: str) -> None:
    assert faults(text) == [f"node.toml: {fault}"]


R2 = "kind='r2'\nbucket='b'\naccount_id='0123456789abcdef0123456789abcdef'\n"
KEYS = "access_key_file='a'\nsecret_key_file='s'\n"
HTTP = "kind='http'\nendpoint='https://a.example'\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind='s4'", "kind: must be 's3', 'r2', 'github' or 'http', not 's4'"),
        ("kind='s3'\nregion='eu'", "bucket: must be given for kind 's3'"),
        ("kind='s3'\nbucket='b'", "region: kind 's3' needs region (AWS) or endpoint (anything else that speaks S3)"),
        ("kind='s3'\nbucket='b/c'\nregion='eu'",
         "bucket: a bucket's name has no slash; a folder in the bucket is `prefix`"),
        ("kind='s3'\nbucket='-b'\nregion='eu'", "bucket: '-b' is not a bucket's name"),
        ("kind='r2'\nbucket='b'", "account_id: kind 'r2' needs account_id or endpoint"),
        (R2 + "prefix='/x'",
         "prefix: '/x' is not a folder such as \"models/eu\": no slash first or last, no dots alone"),
        (R2 + "prefix='a/../b'",
         "prefix: 'a/../b' is not a folder such as \"models/eu\": no slash first or last, no dots alone"),
        (R2 + "access_key_file='a'",
         "secret_key_file: is missing: access_key_file is set, and the two go together"),
        (R2 + "secret_key_file='s'",
         "access_key_file: is missing: secret_key_file is set, and the two go together"),
        (R2 + "direction='push'", "direction: pushing needs credentials: give access_key_file and secret_key_file"),
        (R2 + "pusher=true", "pusher: pushing needs credentials: give access_key_file and secret_key_file"),
        (R2 + KEYS + "pusher=true\ndirection='pull'", 'pusher: contradicts direction = "pull"'),
        (R2 + KEYS + "primary=true\ndirection='pull'",
         'primary: the primary is written to; contradicts direction = "pull"'),
        (R2 + "replicated_from='u'", "replicated_from: names the upstream itself"),
        (R2 + "replicated_from='x'", "replicated_from: there is no upstream named 'x'"),
        ("kind='s3'\nbucket='b'\nregion='eu'\naccount_id='0123456789abcdef0123456789abcdef'",
         "account_id: means nothing to kind 's3'; it belongs to r2"),
        ("kind='github'\nbucket='b'", "bucket: kind 'github' needs \"owner/repository\" here"),
        ("kind='github'\nbucket='o/r'\naccess_key_file='a'",
         "access_key_file: kind 'github' has one secret, its token; it goes into secret_key_file"),
        ("kind='github'\nbucket='o/r'\nlayout='cas'",
         "layout: releases hold files by name; only \"filename\" is possible for kind 'github'"),
        ("kind='github'\nbucket='o/r'\npusher=true",
         "pusher: pushing needs credentials: give secret_key_file (the token)"),
        ("kind='github'\nbucket='o/r'\nprimary=true",
         "primary: the primary needs conditional writes, which only s3 and r2 have"),
        ("kind='http'", "endpoint: must be given for kind 'http'"),
        (HTTP + "bucket='b'", "bucket: means nothing to kind 'http'"),
        (HTTP + "direction='both'", "direction: kind 'http' can only be pulled from"),
    ],
)  # fmt: skip
def test_a_fault_of_an_upstream_names_it(faults: Faults, text: str, fault: str) -> None:
    assert faults(f"[[upstream]]\nname = 'u'\n{text}") == [f"node.toml: upstream.u.{fault}"]


@pytest.mark.parametrize("name", ["", "R2", "a_b", "a--b", "-a", "a" * 33])
def test_an_upstreams_name_is_narrow(faults: Faults, name: str) -> None:
    (fault,) = faults(f"[[upstream]]\nname = '{name}'\n{HTTP}")
    assert fault.endswith("is not at most 32 small letters and digits, with single dashes between them")


def test_upstreams_must_agree(faults: Faults) -> None:
    text = "".join(f"[[upstream]]\nname='{name}'\nprimary=true\n{R2}{KEYS}" for name in ("a", "b", "a"))
    assert faults(text) == [
        "node.toml: upstream.a.name: 2 upstreams have this name",
        "node.toml: upstream.b.primary: only one upstream can be primary, and a is",
        "node.toml: upstream.a.primary: only one upstream can be primary, and a is",
    ]


@pytest.mark.parametrize(
    "text",
    [
        R2,
        R2 + KEYS + "pusher=true\nprimary=true\ndirection='push'",
        "kind='r2'\nbucket='b'\nendpoint='https://x.example'",
        "kind='s3'\nbucket='b'\nendpoint='http://127.0.0.1:8333'\nprefix='models/eu'",
        "kind='s3'\nbucket='b'\nregion='us-east-1'\nlayout='filename'\nbudget='2 TB'",
        "kind='github'\nbucket='owner/repo'\nsecret_key_file='token'\npusher=true",
        HTTP,
    ],
)
def test_upstreams_that_are_right(load: Load, text: str) -> None:
    (upstream,) = load(f"[[upstream]]\nname = 'u'\n{text}").config.upstream
    assert upstream.layout == ("filename" if "github" in text or "filename" in text else "cas")
    assert upstream.has_credentials is ("secret_key_file" in text)


def test_all_faults_come_at_once(faults: Faults) -> None:
    text = "[public]\nport = -1\nprot = 1\n[limits]\nmax_ranges = 0\n[[upstream]]\nname='u'\nkind='http'\n"
    found = faults(text, {"AIBROTHER_NOPE": "", "AIBROTHER_LOG__FORMAT": "xml"})
    assert found == [
        "AIBROTHER_NOPE: sets nothing",
        "node.toml: public.port: must be at least 0, not -1",
        "node.toml: public.prot: there is no such key; did you mean port?",
        "node.toml: limits.max_ranges: must be at least 1, not 0",
        "node.toml: upstream.u.endpoint: must be given for kind 'http'",
        "AIBROTHER_LOG__FORMAT: log.format: must be 'text' or 'json', not 'xml'",
    ]


def test_a_fault_in_a_url_does_not_repeat_its_secrets(faults: Faults) -> None:
    for text in (
        "[node]\npublic_url = 'https://user:hunter2@a.example'",
        "[alerts]\nwebhooks = ['https//a.example/?token=hunter2']",
        "[fleet]\nseeds = ['https://a.example/?token=hunter2']",
    ):
        assert "hunter2" not in "".join(faults(text))


def raw_values() -> st.SearchStrategy[Any]:
    texts = st.one_of(
        st.text(max_size=20), st.sampled_from(["", "~", "credential:x", "a\0", "http://[", "1h", "[::1]:1"])
    )
    scalars = st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.floats(), texts)
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2))


KNOWN = [(section, key) for section in NodeConfig.model_fields for key in keys_of_section(section)]


@given(st.dictionaries(st.sampled_from(KNOWN), raw_values(), min_size=1, max_size=6), st.booleans())
def test_whatever_a_file_holds_it_is_loaded_or_refused(values: dict[tuple[str, str], Any], upstreams: bool) -> None:
    tree: dict[str, Any] = {}
    for (section, key), value in values.items():
        tree.setdefault(section, {})[key] = value
    if upstreams and "upstream" in tree:
        tree["upstream"] = [tree["upstream"]]
    layers = Layers(Path("/here"))
    layers.add_file(tree, "node.toml", Path("/etc"))
    found: list[str] = []
    layers.resolve_paths({}, found)
    try:
        NodeConfig.model_validate(layers.tree)
    except ValidationError as error:
        found += explain(error, layers)
        assert found
    assert all(fault.startswith("node.toml: ") for fault in found)


@given(
    st.dictionaries(
        st.sampled_from([f"AIBROTHER_{s}__{k}".upper() for s, k in KNOWN]), st.text(max_size=30), max_size=4
    )
)
def test_whatever_variables_hold_they_are_taken_or_refused(environ: dict[str, str]) -> None:
    try:
        loaded = load_config(config=None, data=None, environ=environ, cwd=Path("/nowhere"))
    except ConfigurationError as error:
        assert all(fault.partition(":")[0] in environ for fault in error.faults)  # noqa: PT017  # both ways are right
    else:
        assert set(loaded.origins.values()) <= set(environ)


# Values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://models.example/", "https://models.example"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ("https://cdn.example/mirror/", "https://cdn.example/mirror"),
        ("", ""),
    ],
)
def test_urls_have_one_form(load: Load, text: str, expected: str) -> None:
    assert load(f"[node]\npublic_url = '{text}'").config.node.public_url == expected


def test_one_host_or_several(load: Load) -> None:
    assert load("[public]\nhost = '0:0::1'").config.public.host == ("::1",)
    assert load("[public]\nhost = ['Node.Example', '10.0.0.1']").config.public.host == ("node.example", "10.0.0.1")


@pytest.mark.parametrize(
    "text",
    [
        "[public]\nport = 0\n[control]\nport = 0\n[fleet]\nport = 0",
        "[public]\nport = 9\nhost = '10.0.0.1'\n[control]\nport = 9",
        "[public]\nport = 9\nhost = '::'\n[control]\nport = 9",
        "[public]\nport = 8081",
    ],
)
def test_ports_that_do_not_collide(load: Load, text: str) -> None:
    load(text)


def test_workers_are_one_a_core_that_may_be_used(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert load().config.public.workers == 3
    assert load('[public]\nworkers = "auto"').config.public.workers == 3
    assert load(environ={"AIBROTHER_PUBLIC__WORKERS": "auto"}).config.public.workers == 3


@pytest.mark.parametrize(
    ("total", "reserve"),
    [
        (1000 * GIB, 50 * GIB),
        (100 * GIB, 5 * GIB),
        (40 * GIB, 5 * GIB),
        (20 * GIB, 5 * GIB),
        (8 * GIB, 2 * GIB),
        (0, 0),
    ],
)
def test_the_reserve_is_five_percent_at_least_five_gib_at_most_a_quarter(total: int, reserve: int) -> None:
    assert StoreSection().reserve_on(total) == reserve
    assert StoreSection(reserve=7).reserve_on(total) == 7


FULL = f"""
[node]
latitude = 1
longitude = -2.5
public_url = "https://models.example"
[public]
port = 8081
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32"]
tls_certificate = "c"
tls_key = "k"
[store]
reserve = "1 GiB"
[policy]
wants = ["phi-2"]
channels = ["stable", "staging"]
[limits]
header_timeout = "1m30s"
bandwidth_per_client = "5 MB/s"
[alerts]
webhooks = ["https://hook.example/?token=x"]
{UPSTREAM}
[[upstream]]
name = "g"
kind = "github"
bucket = "owner/repo"
[[upstream]]
name = "h"
kind = "http"
endpoint = "https://a.example/x"
"""


@pytest.mark.parametrize("text", ["", "[public]\nport = 8081\n", FULL])
def test_a_configuration_survives_the_way_to_another_process(load: Load, text: str) -> None:
    config = load(text).config
    again = NodeConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert reloadable_changes(config, again) == ([], [])
    assert NodeConfig.model_validate(config.model_dump()) == config


def test_a_configuration_cannot_be_changed(load: Load) -> None:
    config = load().config
    with pytest.raises(ValidationError, match="frozen"):
        config.public.port = 1  # type: ignore[misc]  # what is tested


# What has an effect, what reloads


def all_keys() -> list[str]:
    return [
        f"{section}.{key}"
        for section in NodeConfig.model_fields
        if section != "upstream"
        for key in keys_of_section(section)
    ]


@pytest.mark.parametrize("pattern", [*IN_EFFECT, *RELOADABLE])
def test_tables_name_keys_that_exist(pattern: str) -> None:
    prefix, star, _ = pattern.partition("*")
    assert any(key.startswith(prefix) if star else key == pattern for key in all_keys())


def test_what_is_set_without_effect_is_warned_about(load: Load) -> None:
    text = f"[node]\nregion = 'eu'\n[replicator]\ninterval = '2m'\n[limits]\nmode = 'off'\n{UPSTREAM}"
    assert load(text, {"AIBROTHER_LIMITS__MAX_FILLS": "3", "AIBROTHER_LOG__LEVEL": "debug"}).warnings == [
        f"{key}: accepted, no effect in this version"
        for key in (
            "replicator.interval",
            "limits.mode",
            "upstream.s3-eu.name",
            "upstream.s3-eu.kind",
            "upstream.s3-eu.bucket",
            "upstream.s3-eu.region",
            "limits.max_fills",
        )
    ]


@pytest.mark.parametrize(
    ("hosts", "warned"),
    [
        ('"127.0.0.1"', ""),
        ('["::1", "localhost"]', ""),
        ('"0.0.0.0"', "0.0.0.0"),
        ('["127.0.0.1", "::", "10.0.0.1"]', "::, 10.0.0.1"),
    ],
)
def test_a_control_plane_that_others_reach_is_warned_about(load: Load, hosts: str, warned: str) -> None:
    warnings = load(f"[control]\nhost = {hosts}\n").warnings
    assert [warning.partition(": tokens go over plain HTTP")[0] for warning in warnings] == (
        [f"control.host: {warned}"] if warned else []
    )


def test_changes_are_told_apart_by_what_they_need(load: Load) -> None:
    old = load("").config
    new = load(
        "[node]\ndata = 'x'\ndrain_seconds = 5\n[public]\nport = 1\ntls_certificate = 'c'\ntls_key = 'k'\n"
        f"cors_origins = []\ntrusted_proxies = '::1'\n[limits]\nmax_ranges = 2\n[log]\nformat = 'json'\n{UPSTREAM}"
    ).config
    assert reloadable_changes(old, old) == ([], [])
    assert reloadable_changes(old, new) == (
        [
            "node.drain_seconds",
            "public.tls_certificate",
            "public.tls_key",
            "public.trusted_proxies",
            "public.cors_origins",
            "limits.max_ranges",
            "log.format",
        ],
        ["node.data", "public.port", "upstream"],
    )
