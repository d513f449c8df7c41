"""What an operator may write, and what the daemon says about what they should not have written."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ddslogd.config import loader, rules, yaml_positions
from ddslogd.config import settings as config_settings
from ddslogd.config.types import domain_of
from ddslogd.model.errors import ConfigError
from ddslogd.model.instance import Cron, Every, Instance
from ddslogd.model.units import read_duration, read_size, spell_duration, spell_size
from support.places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ROOT / "config"
SECRET = "hunter2"
A, B, C, D = (f"{digit * 32}in02" for digit in "abcd")

QUOTE_IT = '; quote it: a value that begins with * is text in quotes only, as cron: "*/20 * * * *"'
CLOUD = """\
clouds:
  eu:
    endpoint: https://dds.eu-west-101.myhuaweicloud.eu
    project_id: 0483b6b16e954cb88930a360d2c4e663
    auth: {method: token, token: {env: DDSLOGD_TOKEN}}
"""
INSTANCES = f"""\
instances:
  - id: {A}
"""


def complaints_about(text: str) -> list[str]:
    """Return every complaint and warning as the operator reads it."""
    try:
        loaded = loader.parse(text, "f")
    except ConfigError as exc:
        return str(exc).splitlines()
    return [warning.render("f") for warning in loaded.warnings]


def test_an_error_beside_settings_that_are_valid_is_refused() -> None:
    """What stands on the second line is not used, so the first would do: nobody knows which one was meant."""
    with pytest.raises(ConfigError, match="duplicate key"):
        loader.parse(f"{CLOUD}{INSTANCES}schedule: {{every: 20m}}\nschedule: {{every: 30m}}\n", "f")


def auth(text: str, rest: str = "project_id: p, iam_endpoint: https://iam.x.eu") -> str:
    """Return a file with one cloud; what follows ``auth: `` is on line 1 from column 49."""
    return f"clouds: {{eu: {{endpoint: https://dds.x.eu, auth: {text}, {rest}}}}}\n{INSTANCES}"


def cloud(text: str) -> str:
    """Return a file with more lines in its cloud, from line 6 column 5."""
    return f"{CLOUD}    {text}\n{INSTANCES}"


def entry(text: str) -> str:
    """Return a file with more in its instance, from line 8 column 5."""
    return f"{CLOUD}{INSTANCES}    {text}\n"


def top(text: str) -> str:
    """Return a file with more sections, from line 8 column 1."""
    return f"{CLOUD}{INSTANCES}{text}\n"


def several(*instances: str, clouds: str = CLOUD) -> str:
    """Return a file whose instances stand one a line, the first on line 7 column 5."""
    return clouds + "instances:\n" + "".join(f"  - {{{text}}}\n" for text in instances)


AUTH = "clouds.eu.auth"
HTTPS = "must begin with https://"
METHODS = "token, password, access_key or metadata"
TWO_CLOUDS = CLOUD + "  otc: {endpoint: https://dds.x.eu, project_id: p, auth: {method: token, token: {env: X}}}\n"


def test_the_example_is_valid_and_nothing_is_said_about_it() -> None:
    loaded = loader.load(CONFIG / "ddslogd.example.yaml")

    assert loaded.warnings == ()


@pytest.mark.parametrize("section", ["schedule", "export", "download", "storage", "health", "web"])
def test_the_example_shows_the_defaults(section: str) -> None:
    shown = getattr(loader.load(CONFIG / "ddslogd.example.yaml").settings, section)
    bare = loader.parse(CLOUD + INSTANCES, "f").settings

    assert shown == getattr(bare, section)


def test_the_schema_beside_the_example_is_current() -> None:
    written = json.loads((CONFIG / "ddslogd.schema.json").read_text())

    assert written == loader.schema()


def test_the_schema_says_what_every_setting_is_for() -> None:
    schema = loader.schema()
    settings = {
        f"{model}.{name}": setting
        for model, section in schema["$defs"].items()
        for name, setting in section.get("properties", {}).items()  # an enum has none
        if name != "method"
    }

    assert [name for name, setting in settings.items() if not setting.get("description")] == []


@pytest.mark.parametrize("text", ["20m", "10s", "500ms", "1h30m", "1d", "0s"])
def test_the_schema_takes_every_form_of_a_duration(text: str) -> None:
    pattern = loader.schema()["$defs"]["Export"]["properties"]["first_poll"]["pattern"]

    assert re.search(pattern, text)


@pytest.mark.parametrize("text", ["2GiB", "512KiB", "100MB", "7B", "12"])
def test_the_schema_takes_every_form_of_a_size(text: str) -> None:
    number, words = loader.schema()["$defs"]["Storage"]["properties"]["keep_free"]["anyOf"]

    assert (number["type"], bool(re.search(words["pattern"], text))) == ("integer", True)


def test_the_schema_spells_defaults_as_the_file_does() -> None:
    sections = loader.schema()["$defs"]

    assert [
        sections["Schedule"]["properties"]["every"]["default"],
        sections["Download"]["properties"]["max_size"]["default"],
        sections["Download"]["properties"]["concurrent"]["default"],
    ] == ["20m", "1GiB", 16]


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_that_is_spelled_is_read_as_what_it_was(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)

    assert duration == read_duration(spell_duration(duration))


@given(st.integers(min_value=0, max_value=10**15) | st.integers(0, 4096).map(lambda count: count * 1024**3))
def test_a_size_that_is_spelled_is_read_as_what_it_was(size: int) -> None:
    assert size == read_size(spell_size(size))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20m", timedelta(minutes=20)),
        ("10s", timedelta(seconds=10)),
        ("500ms", timedelta(milliseconds=500)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1d", timedelta(days=1)),
        ("1d2h3m4s5ms", timedelta(1, 4, hours=2, minutes=3, milliseconds=5)),
    ],
)
def test_a_duration_adds_up_its_units(text: str, expected: timedelta) -> None:
    assert expected == read_duration(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2GiB", 2 * 1024**3),
        ("512KiB", 524_288),
        ("100MB", 100_000_000),
        ("1TB", 10**12),
        ("7B", 7),
        (0, 0),
        (4096, 4096),
    ],
)
def test_a_size_counts_bytes(value: object, expected: int) -> None:
    assert expected == read_size(value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("dds.eu-west-101.myhuaweicloud.eu", "*.myhuaweicloud.eu"),
        ("dds.eu-de.otc.t-systems.com", "*.otc.t-systems.com"),
        ("dds.example.com", "*.example.com"),
        ("example.com", "example.com"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_links_may_point_to_the_domain_of_the_endpoint_and_no_wider(host: str, expected: str) -> None:
    assert expected == domain_of(host)


def test_the_hosts_of_links_come_from_the_endpoint_without_its_port() -> None:
    settings = loader.parse(CLOUD.replace("myhuaweicloud.eu", "MyHuaweiCloud.eu:8443") + INSTANCES, "f").settings

    assert settings.clouds["eu"].allowed_link_hosts == ("*.myhuaweicloud.eu",)


def test_named_hosts_of_links_replace_the_domain_of_the_endpoint() -> None:
    settings = loader.parse(cloud('link_hosts: ["*.OBS.example.com", "::1"]'), "f").settings

    assert settings.clouds["eu"].allowed_link_hosts == ("*.obs.example.com", "::1")


def test_an_instance_without_more_than_an_id_takes_every_default() -> None:
    settings = loader.parse(CLOUD + INSTANCES, "f").settings

    assert settings.fleet() == (Instance(id=A, name=A, cloud="eu", schedule=Every(interval=timedelta(minutes=20))),)


def test_an_instance_overrides_the_schedule_and_takes_its_time_zone_over() -> None:
    text = several(
        f"id: {A}, every: 30m",
        f"id: {B}, cron: 0 6 * * *",
        f"id: {C}, cron: 0 6 * * *, timezone: Asia/Tokyo",
        f"id: {D}",
    )
    settings = loader.parse(text + 'schedule: {cron: "0 * * * *", timezone: Europe/Berlin}', "f").settings

    assert [instance.schedule for instance in settings.fleet()] == [
        Every(interval=timedelta(minutes=30)),
        Cron(expression="0 6 * * *", timezone="Europe/Berlin"),
        Cron(expression="0 6 * * *", timezone="Asia/Tokyo"),
        Cron(expression="0 * * * *", timezone="Europe/Berlin"),
    ]


def test_an_instance_has_the_name_the_cloud_and_the_nodes_it_says() -> None:
    node = f"{'1' * 32}no02"
    text = several(f"id: {A}, name: orders, cloud: otc, nodes: [{node}]", clouds=TWO_CLOUDS)

    assert loader.parse(text, "f").settings.fleet() == (
        Instance(id=A, name="orders", cloud="otc", node_ids=(node,), schedule=Every(interval=timedelta(minutes=20))),
    )


def test_a_cron_schedule_replaces_the_default_interval() -> None:
    schedule = loader.parse(top('schedule: {cron: "0 * * * *"}'), "f").settings.schedule

    assert (schedule.every, schedule.when) == (None, Cron(expression="0 * * * *", timezone="UTC"))


def test_only_what_yaml_1_2_reads_as_a_number_is_no_text() -> None:
    tree = yaml_positions.read(
        "[no, off, 22:30, 010, 0x10, 2026-01-01, 1e3, <<, true, null, ~, , 12, -3, 1.5]".replace(", ,", ",~,")
    )

    assert tree.value == [
        *["no", "off", "22:30", "010", "0x10", "2026-01-01", "1e3", "<<"],
        *[True, None, None, None, 12, -3, 1.5],
    ]


def test_an_alias_stands_for_what_it_names() -> None:
    tree = yaml_positions.read("a: &x {b: 1}\nc: *x\n")

    assert (tree.value, tree.findings) == ({"a": {"b": 1}, "c": {"b": 1}}, ())


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "ddslogd.yaml"
    file.write_bytes((CLOUD + INSTANCES).encode("utf-8-sig"))

    assert len(loader.load(file).settings.instances) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f:1:1: the file is empty: it needs clouds and instances"),
        ("# nothing\n", "f:1:1: the file is empty: it needs clouds and instances"),
        ("- a\n", "f:1:1: must be a mapping of keys to values"),
        ("clouds", "f:1:1: must be a mapping of keys to values"),
        ("a: b\n  c: d\n", "f:2:4: is no YAML: mapping values are not allowed in this context"),
        ("a: *x\n", "f:1:4: is no YAML: found undefined alias" + QUOTE_IT),
        (
            "a: 1\n---\nb: 2\n",
            "f:2:1: is no YAML: expected a single document in the stream: but found another document",
        ),
        ("a: é\x01\n", "f:1:5: is no YAML: a control character"),
        ("a: &x [*x]\n", "f:1:4: is no YAML: too much: an alias repeats itself"),
        ("[" * 100_000, "f:1:32: is no YAML: nested too deep"),
    ],
    ids=["empty", "comment", "list", "text", "syntax", "alias", "documents", "control", "recursion", "deep"],
)
def test_a_text_that_is_no_mapping_is_refused_with_its_position(text: str, expected: str) -> None:
    assert [expected] == complaints_about(text)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (f"found undefined alias '{SECRET}'", "is no YAML: found undefined alias"),
        ("expected ',' or ']', but got '<stream end>'", "is no YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_what_pyyaml_quotes_from_the_file_is_left_out(problem: str, expected: str) -> None:
    """Without libyaml, PyYAML names aliases and tags: a secret that begins with * or ! would be one."""
    assert expected == yaml_positions._told(yaml.MarkedYAMLError(problem=problem))


def test_aliases_that_multiply_are_refused() -> None:
    """Each line holds the last one ten times: 10^10 values in 200 bytes."""
    lines = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]

    assert [yaml_positions.path_of(found.loc) for found in yaml_positions.read("\n".join(lines)).findings] == [""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            top("clods: {}\nexprt: {}"),
            ["f:8:1: clods: unknown key (did you mean clouds?)", "f:9:1: exprt: unknown key (did you mean export?)"],
        ),
        (
            cloud("calls_per_minit: 3"),
            ["f:6:5: clouds.eu.calls_per_minit: unknown key (did you mean calls_per_minute?)"],
        ),
        (entry("zzz: 1"), ["f:8:5: instances[0].zzz: unknown key"]),
        (entry('"b d": 1'), ['f:8:5: instances[0]."b d": unknown key']),
        (cloud("endpoint: https://x"), ["f:6:5: clouds.eu.endpoint: duplicate key, first on line 3"]),
        (top("1: a"), ["f:8:1: a key must be text (a number or a null wants quotes)"]),
        (
            top("storage: !!python/name:os.system {}"),
            ["f:8:10: storage: has a tag (!) that means nothing here, or does not fit"],
        ),
        (
            "schedule: {}\n",
            ["f:1:1: clouds: is missing", "f:1:1: instances: is missing"],
        ),
        (
            "clouds:\n  eu:\n    project_id: p\n" + INSTANCES,
            ["f:2:3: clouds.eu.auth: is missing", "f:2:3: clouds.eu.endpoint: is missing: set it, or region"],
        ),
        (several("name: a"), ["f:7:5: instances[0].id: is missing"]),
        (
            "clouds: {}\ninstances: []\n",
            ["f:1:9: clouds: must have at least one entry", "f:2:12: instances: must have at least one entry"],
        ),
        (
            "clouds: []\ninstances: {}\n",
            ["f:1:9: clouds: must be a mapping of keys to values", "f:2:12: instances: must be a list"],
        ),
        (several("id: 1"), ["f:7:10: instances[0].id: must be text (a number wants quotes)"]),
        (CLOUD + "instances: [a]\n", ["f:6:13: instances[0]: must be a mapping of keys to values"]),
        (top("storage:"), ["f:8:9: storage: is empty: give a value, or leave the key out"]),
        (top("download: {attempts: no}"), ["f:8:22: download.attempts: must be a whole number"]),
        (top("download: {concurrent: 257}"), ["f:8:24: download.concurrent: must be at most 256"]),
        (top("download: {concurrent: 0}"), ["f:8:24: download.concurrent: must be at least 1"]),
        (top("storage: {state: lib}"), ["f:8:18: storage.state: must be an absolute path"]),
    ],
)
def test_what_stands_in_the_wrong_shape_is_named_with_its_place(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "first_poll: 10",
            "f:8:22: export.first_poll: 10 has no unit (did you mean 10s or 10m?)",
        ),
        (
            "first_poll: 5sec",
            "f:8:22: export.first_poll: '5sec' is no duration like 20m, 10s, 500ms or 1h30m",
        ),
        (
            "first_poll: 30m1h",
            "f:8:22: export.first_poll: '30m1h' is no duration like 20m, 10s, 500ms or 1h30m",
        ),
        (
            "first_poll: []",
            "f:8:22: export.first_poll: this is no duration like 20m, 10s, 500ms or 1h30m",
        ),
        ("first_poll: 0s", "f:8:22: export.first_poll: must be at least 1ms"),
        ("max_poll: 2h", "f:8:20: export.max_poll: must be at most 1h"),
        ("first_poll: 1m", "f:8:1: export.max_poll: is 30s, below first_poll (1m)"),
        ("max_poll: 9m, give_up_after: 8m", "f:8:39: export.give_up_after: is 8m, below max_poll (9m)"),
    ],
)
def test_a_duration_that_cannot_be_is_refused(text: str, expected: str) -> None:
    assert [expected] == complaints_about(top(f"export: {{{text}}}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2gib", "'2gib' is no size like 2GiB, 512KiB, 100MB or 0 (did you mean 2GiB?)"),
        ("2 G", "'2 G' is no size like 2GiB, 512KiB, 100MB or 0 (did you mean 2GiB?)"),
        ("much", "'much' is no size like 2GiB, 512KiB, 100MB or 0"),
        ("-1", "must be at least 0"),
    ],
)
def test_a_size_that_cannot_be_is_refused(text: str, expected: str) -> None:
    assert [f"f:8:22: storage.keep_free: {expected}"] == complaints_about(top(f"storage: {{keep_free: {text}}}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule: {cycle_timeout: 5m}", "f:8:27: schedule.cycle_timeout: is 5m, below export.give_up_after (10m)"),
        ("export: {give_up_after: 2h}", "f:8:25: export.give_up_after: is 2h, above schedule.cycle_timeout (1h)"),
    ],
)
def test_a_cycle_may_not_end_before_its_export_is_given_up(text: str, expected: str) -> None:
    assert [expected] == complaints_about(top(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://dds.x.eu", "must begin with https://; plain http is for loopback addresses only"),
        ("http://127.1.example.com", "must begin with https://; plain http is for loopback addresses only"),
        ("http://[::ffff:127.0.0.1]", "must begin with https://; plain http is for loopback addresses only"),
        ("https://me:pw@dds.x.eu", "must not hold a user or a password: they would stand in this file"),
        ("https://dds.x.eu/v3", "must end after the host and its port: no path, no query"),
        ("https://dds.x.eu?a=b", "must end after the host and its port: no path, no query"),
        ("https://dds.x.eu:70000", "has a port that does not exist"),
        ("https://[::::]", "has no IPv6 address between its brackets"),
        ("dds.x.eu", "must be a URL like https://host or https://host:port"),
        ("ftp://dds.x.eu", "must be a URL like https://host or https://host:port"),
    ],
)
def test_an_endpoint_is_a_host_by_https(text: str, expected: str) -> None:
    assert [f"f:6:19: clouds.eu.iam_endpoint: {expected}"] == complaints_about(cloud(f"iam_endpoint: {text}"))


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:80", "http://localhost:1"]
)
def test_plain_http_is_for_loopback_addresses(origin: str) -> None:
    settings = loader.parse(cloud(f'iam_endpoint: "{origin}/"'), "f").settings

    assert settings.clouds["eu"].iam_endpoint == origin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proxy: http://proxy.x.eu:3128", []),
        (
            "proxy: http://me:pw@proxy.x.eu",
            ["f:6:12: clouds.eu.proxy: must not hold a user or a password: they would stand in this file"],
        ),
        (
            "link_hosts: ['*']",
            ["f:6:18: clouds.eu.link_hosts[0]: must be a host, an address, or *. and a domain of at least two labels"],
        ),
        (
            "link_hosts: [a, '*.com']",
            ["f:6:21: clouds.eu.link_hosts[1]: must be a host, an address, or *. and a domain of at least two labels"],
        ),
        ("calls_per_minute: '60'", ["f:6:23: clouds.eu.calls_per_minute: must be a whole number"]),
        (
            "project_name: ' '",
            ["f:6:19: clouds.eu.project_name: must be text without control characters, and not empty"],
        ),
    ],
)
def test_a_cloud_is_looked_at_value_by_value(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(cloud(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (auth("{method: tokn}"), [f"f:1:58: clouds.eu.auth.method: must be {METHODS} (did you mean token?)"]),
        (
            auth("{method: access_key}", "proxy: null"),
            [
                "f:1:10: clouds.eu.project_id: is missing: method access_key needs it, or project_name or region",
                "f:1:43: clouds.eu.auth.access_key: is missing",
                "f:1:43: clouds.eu.auth.secret_key: is missing",
            ],
        ),
        (auth("{method: access_key, access_key: AK, secret_key: {env: X}}"), []),
        (
            auth("{method: access_key, access_key: {env: X}, secret_key: {env: X}}", "project_name: n"),
            ["f:1:10: clouds.eu.project_id: is missing: set it, or iam_endpoint or region, to look it up"],
        ),
        (
            auth(
                "{method: access_key, access_key: {env: X}, secret_key: {env: X}}",
                "project_name: n, iam_endpoint: https://iam.example.com",
            ),
            [],
        ),
        (auth("{method: token, token: {env: X}}", "iam_endpoint: https://iam.example.com"), []),
        (auth("{method: token, token: {env: X}}", "region: eu-de"), []),
        (
            auth("{method: token, token: {env: X}}", "region: eu-dee"),
            [
                (
                    "f:1:91: clouds.eu.region: 'eu-dee' is not known (did you mean eu-de?): "
                    "set endpoint and iam_endpoint beside it"
                )
            ],
        ),
        (auth("{method: token, token: {env: X}}", "region: mars-1, iam_endpoint: https://iam.example.com"), []),
        (auth("{method: access_key, access_key: AK, secret_key: {env: X}, security_token: {file: /t}}"), []),
        (
            auth("{method: metadata}", "proxy: null"),
            ["f:1:10: clouds.eu.project_id: is missing: method metadata needs it, or project_name or region"],
        ),
        (auth("{method: metadata}"), []),
        (auth("{method: metadata, address: http://127.0.0.1:8080}"), []),
        (auth("{method: metadata, address: https://metadata.example.com}"), []),
        (auth("{method: metadata, address: 'http://[fe80::a9fe:a9fe]'}"), []),
        (
            auth("{method: metadata, address: 'http://[::ffff:169.254.169.254]'}"),
            [f"f:1:77: {AUTH}.address: {HTTPS}; plain http is for loopback and link-local addresses only"],
        ),
        (
            auth("{method: metadata, address: http://10.0.0.1}"),
            [f"f:1:77: {AUTH}.address: {HTTPS}; plain http is for loopback and link-local addresses only"],
        ),
        (auth("{token: {env: X}}"), ["f:1:43: clouds.eu.auth.method: is missing"]),
        (
            auth("{method: token, token: {env: X}}", "project_name: eu"),
            ["f:1:10: clouds.eu.project_id: is missing: set it, or iam_endpoint or region, to look it up"],
        ),
        (
            auth("{method: password}", "proxy: null"),
            [
                "f:1:10: clouds.eu.iam_endpoint: is missing: method password asks it for tokens",
                "f:1:10: clouds.eu.project_id: is missing: method password needs it, or project_name or region",
                "f:1:43: clouds.eu.auth.domain_name: is missing",
                "f:1:43: clouds.eu.auth.password: is missing",
                "f:1:43: clouds.eu.auth.username: is missing",
            ],
        ),
        (
            auth(
                "{method: password, username: u, domain_name: d, password: {file: /p}}",
                "project_name: n, iam_endpoint: https://x",
            ),
            [],
        ),
    ],
)
def test_a_method_says_what_it_needs(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


def test_the_metadata_service_is_where_every_cloud_has_it() -> None:
    settings = loader.parse(auth("{method: metadata}"), "f").settings

    assert getattr(settings.clouds["eu"].auth, "address", None) == "http://169.254.169.254"


REFERENCE = "give {env: NAME}, {file: /path} or {credential: NAME}"


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (SECRET, f"f:1:72: clouds.eu.auth.token: a secret must not stand in this file: {REFERENCE}"),
        (f"[{SECRET}]", f"f:1:72: clouds.eu.auth.token: a secret must not stand in this file: {REFERENCE}"),
        (f"{{{SECRET}}}", f"f:1:72: clouds.eu.auth.token: must hold exactly one known key: {REFERENCE}"),
        (f"{{env: X, {SECRET}: y}}", f"f:1:72: clouds.eu.auth.token: must hold exactly one known key: {REFERENCE}"),
        (f"{{{SECRET}: x}}", f"f:1:72: clouds.eu.auth.token: must hold exactly one known key: {REFERENCE}"),
        ("{env: X, file: /x}", f"f:1:72: clouds.eu.auth.token: must hold exactly one known key: {REFERENCE}"),
        ("{env: null}", f"f:1:72: clouds.eu.auth.token: must hold exactly one known key: {REFERENCE}"),
        (
            f"{{env: '{SECRET}!'}}",
            "f:1:78: clouds.eu.auth.token.env: must be the NAME of an environment variable (letters, digits and _)",
        ),
        (f"{{file: {SECRET}}}", "f:1:79: clouds.eu.auth.token.file: must be an absolute path"),
        (
            f"{{credential: a/{SECRET}}}",
            "f:1:85: clouds.eu.auth.token.credential: must be the name of a systemd credential",
        ),
        (f"{{env: X}}, {SECRET}: 1", "f:1:82: clouds.eu.auth: unknown key"),
        (f"{{env: X}}, access_key: {SECRET}", "f:1:82: clouds.eu.auth.access_key: unknown key"),
        ("{env: X}, tokn: 1", "f:1:82: clouds.eu.auth: unknown key (did you mean token?)"),
        (f"!{SECRET} x", "f:1:72: clouds.eu.auth.token: has a tag (!) that means nothing here, or does not fit"),
        (f"*{SECRET}", "f:1:72: is no YAML: found undefined alias" + QUOTE_IT),
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_repeated(secret: str, expected: str) -> None:
    assert [expected] == complaints_about(auth(f"{{method: token, token: {secret}}}"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (f"access_key: '{SECRET}!'", f"f:1:82: {AUTH}.access_key: must be an access key's id, as the console shows it"),
        ("access_key: 12345678", f"f:1:82: {AUTH}.access_key: must be text (a number wants quotes)"),
        (f"access_key: [{SECRET}]", f"f:1:82: {AUTH}.access_key: must be text (a number wants quotes)"),
        (f"access_key: {{{SECRET}: x}}", f"f:1:82: {AUTH}.access_key: must hold exactly one known key: {REFERENCE}"),
        ("access_key: {file: x}", f"f:1:89: {AUTH}.access_key.file: must be an absolute path"),
        (
            f"access_key: AK, secret_key: {SECRET}",
            f"f:1:98: {AUTH}.secret_key: a secret must not stand in this file: {REFERENCE}",
        ),
        (
            f"access_key: AK, security_token: {SECRET}",
            f"f:1:102: {AUTH}.security_token: a secret must not stand in this file: {REFERENCE}",
        ),
    ],
)
def test_an_access_key_may_be_text_and_its_secrets_may_not(keys: str, expected: str) -> None:
    rest = "" if "secret_key" in keys else ", secret_key: {env: X}"

    assert [expected] == complaints_about(auth(f"{{method: access_key, {keys}{rest}}}"))


@pytest.mark.parametrize(
    "place",
    [SECRET, f"{{method: {SECRET}}}", f"{{{SECRET}, {SECRET}}}", f"{{method: token, token: {{{SECRET}: !x y}}}}"],
)
def test_a_secret_in_the_place_of_something_else_is_not_repeated_either(place: str) -> None:
    said = "\n".join(complaints_about(auth(place)))

    assert (said != "", SECRET in said) == (True, False)


def test_the_error_keeps_nothing_of_what_the_file_held() -> None:
    """A traceback with its causes is what a log might show."""
    with pytest.raises(ConfigError) as caught:
        loader.parse(auth(f"{{method: token, token: {SECRET}}}"), "f")

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            several(f"id: {A}, cloud: eu", f"id: {B}, cloud: ue"),
            ["f:8:55: instances[1].cloud: there is no 'ue' under clouds"],
        ),
        (
            several(f"id: {A}, cloud: otcc", f"id: {B}, cloud: eu", clouds=TWO_CLOUDS),
            ["f:8:55: instances[0].cloud: there is no 'otcc' under clouds (did you mean otc?)"],
        ),
        (
            several(f"id: {A}", clouds=TWO_CLOUDS),
            ["f:8:5: instances[0].cloud: is missing: there are 2 clouds to choose from"],
        ),
        (several(f"id: {A}", f"id: {A}, name: b"), ["f:8:10: instances[1].id: is the id of instances[0] too"]),
        (
            several(f"id: {A}, name: b", f"id: {B}, name: b"),
            ["f:8:54: instances[1].name: is the name of instances[0] too"],
        ),
        (several(f"id: {A}, name: {B}", f"id: {B}, name: b"), ["f:7:54: instances[0].name: is the id of instances[1]"]),
        (several(f"id: {A}, name: {A}", f"id: {B}"), []),
        (
            several(f"id: {A.upper()}"),
            ["f:7:10: instances[0].id: must be an instance's id: 32 digits from 0-9 and a-f, then in02"],
        ),
        (
            several(f"id: {A}, nodes: [{B}]"),
            ["f:7:56: instances[0].nodes[0]: must be a node's id: 32 digits from 0-9 and a-f, then no02"],
        ),
        *(
            (
                several(f"id: {A}, name: {name}"),
                ["f:7:54: instances[0].name: must be a name without / and control characters, and not empty"],
            )
            for name in ("''", "' '", "a/b", '"a\\0b"', '"a\\nb"', '"a\\x9f"')
        ),
        (
            CLOUD.replace("  eu:", "  a/b:") + INSTANCES,
            ['f:2:3: clouds."a/b": must be a name without / and control characters, and not empty'],
        ),
    ],
)
def test_an_instance_is_one_of_a_kind_in_a_known_cloud(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'0 0 30 2 *'", ["never fires: its months have no such day"]),
        ("'61 * * * *'", ["is no cron expression: bad minute"]),
        ("'0 0 32 * *'", ["is no cron expression: bad day-of-month"]),
        ("'0 0 30 x *'", ["is no cron expression: bad month"]),
        ("'0 0 30 2 x'", ["is no cron expression: bad day-of-week"]),
        ("hourly", ["must have five fields: minute, hour, day of month, month, day of week; or be @hourly, @daily, …"]),
        (
            "0 0 0 * * *",
            ["must have five fields: minute, hour, day of month, month, day of week; or be @hourly, @daily, …"],
        ),
        ("5", ["must be text (a number wants quotes)"]),
        ("'0 0 29 2 *'", []),
        ("'0 6-22 * * mon-fri'", []),
    ],
)
def test_a_cron_expression_has_to_fire(text: str, expected: list[str]) -> None:
    assert [f"f:8:18: schedule.cron: {line}" for line in expected] == complaints_about(
        top(f"schedule: {{cron: {text}}}")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            top("schedule: {every: 20m, cron: 0 * * * *}"),
            ["f:8:30: schedule.cron: cannot stand beside every: keep one of them"],
        ),
        (
            entry("{every: 20m, cron: 0 * * * *}".strip("{}").replace(", ", "\n    ")),
            ["f:9:11: instances[0].cron: cannot stand beside every: keep one of them"],
        ),
        (top("schedule: {every: null}"), ["f:8:19: schedule.every: is empty: give it a value, or give cron"]),
        (entry("timezone: UTC"), ["f:8:15: instances[0].timezone: has no effect without cron"]),
        (
            top("schedule: {cron: 0 * * * *, timezone: Europe/Berln}"),
            ["f:8:39: schedule.timezone: is no time zone this host knows (did you mean Europe/Berlin?)"],
        ),
        (
            top("schedule: {timezone: ../UTC}"),
            ["f:8:22: schedule.timezone: is no time zone this host knows (did you mean UTC?)"],
        ),
        (top("schedule: {timezone: Arctic}"), ["f:8:22: schedule.timezone: is no time zone this host knows"]),
        (top("schedule: {every: 32d}"), ["f:8:19: schedule.every: must be at most 31d"]),
        (top("schedule: {every: 0s}"), ["f:8:19: schedule.every: must be at least 1s"]),
    ],
)
def test_a_schedule_is_one_of_every_and_cron(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


BUDGET = "warning: clouds.eu.calls_per_minute"
SAME_FILES = "the cloud would serve the same files"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            top("schedule: {every: 14m}"),
            [f"f:8:19: warning: schedule.every: is 14m, below export.fresh_for (15m): {SAME_FILES}"],
        ),
        (top("schedule: {every: 15m}"), []),
        (
            top("export: {fresh_for: 1h}"),
            [f"f:8:21: warning: export.fresh_for: is 1h, above schedule.every (20m): {SAME_FILES}"],
        ),
        (
            top("schedule: {cron: '*/14 * * * *'}"),
            [f"f:8:18: warning: schedule.cron: has ticks 4m apart, below export.fresh_for (15m): {SAME_FILES}"],
        ),
        (top("schedule: {cron: '*/15 * * * *', timezone: Europe/Berlin}"), []),
        (
            top("schedule: {cron: '0,55 0,23 * * 2,3'}"),
            [f"f:8:18: warning: schedule.cron: has ticks 5m apart, below export.fresh_for (15m): {SAME_FILES}"],
        ),
        (top("schedule: {cron: 0 0 1 * *}"), []),
        (
            entry("cron: 5,59 0,23 * * *"),
            [f"f:8:11: warning: instances[0].cron: has ticks 6m apart, below export.fresh_for (15m): {SAME_FILES}"],
        ),
        (
            several(f"id: {A}", f"id: {B}, every: 5m"),
            [f"f:8:55: warning: instances[1].every: is 5m, below export.fresh_for (15m): {SAME_FILES}"],
        ),
    ],
)
def test_ticks_closer_than_an_export_is_fresh_are_warned_of(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            cloud("calls_per_minute: 1") + "".join(f"  - id: {n:032x}in02\n" for n in range(1, 9)),
            [
                (
                    f"f:6:23: {BUDGET}: 1 is too few (in the long run it is 0.5): "
                    "the schedules need 1.0 (instances: 9, 2.2 calls a cycle)"
                )
            ],
        ),
        (
            cloud("calls_per_minute: 4")
            + "".join(f"  - id: {n:032x}in02\n" for n in range(1, 30))
            + "schedule: {every: 22m}",
            [],
        ),
        (
            cloud("calls_per_minute: 4")
            + "".join(f"  - id: {n:032x}in02\n" for n in range(1, 29))
            + f"  - {{id: {B}, logs: [error, slow]}}\nschedule: {{every: 22m}}",
            [
                (
                    f"f:6:23: {BUDGET}: 4 is too few (in the long run it is 3): "
                    "the schedules need 3.1 (instances: 30, 2.2 calls a cycle)"
                )
            ],
        ),
        (
            several(f"id: {A}, cloud: eu, every: 2s", f"id: {B}, cloud: otc", clouds=TWO_CLOUDS)
            + "export: {fresh_for: 1s}",
            [
                (
                    f"f:2:3: {BUDGET}: 60 is too few (in the long run it is 54): "
                    "the schedules need 66.0 (instances: 1, 2.2 calls a cycle)"
                )
            ],
        ),
    ],
    ids=["too many", "exactly the budget", "two kinds of log are two exports", "the other account has its own"],
)
def test_a_schedule_beyond_an_account_s_budget_is_warned_of_with_the_sum(text: str, expected: list[str]) -> None:
    assert expected == complaints_about(text)


def test_one_bad_value_hides_no_other_complaint_and_no_warning() -> None:
    text = f"""\
clouds:
  eu:
    endpoint: 5
    calls_per_minute: many
    auth: {{method: password, usernme: u}}
schedule: {{every: 5m, timezone: Nowhere/Land}}
export: {{first_poll: soon, max_poll: 11m}}
instances:
  - {{id: {A}, nme: a}}
  - {{id: {A}, name: x/y, cloud: us, every: 1}}
  - {{id: {B}, cron: 99, timezone: 7}}
unheard: 1
unheard: 2
"""

    assert complaints_about(text) == [
        "f:2:3: clouds.eu.iam_endpoint: is missing: method password asks it for tokens",
        "f:2:3: clouds.eu.project_id: is missing: method password needs it, or project_name or region",
        "f:3:15: clouds.eu.endpoint: must be text (a number wants quotes)",
        "f:4:23: clouds.eu.calls_per_minute: must be a whole number",
        "f:5:5: clouds.eu.auth.domain_name: is missing",
        "f:5:5: clouds.eu.auth.password: is missing",
        "f:5:5: clouds.eu.auth.username: is missing",
        "f:5:30: clouds.eu.auth: unknown key (did you mean username?)",
        f"f:6:19: warning: schedule.every: is 5m, below export.fresh_for (15m): {SAME_FILES}",
        "f:6:33: schedule.timezone: is no time zone this host knows",
        "f:7:1: export.give_up_after: is 10m, below max_poll (11m)",
        "f:7:22: export.first_poll: 'soon' is no duration like 20m, 10s, 500ms or 1h30m",
        "f:9:48: instances[0].nme: unknown key (did you mean name?)",
        "f:10:10: instances[1].id: is the id of instances[0] too",
        "f:10:54: instances[1].name: must be a name without / and control characters, and not empty",
        "f:10:66: instances[1].cloud: there is no 'us' under clouds",
        "f:10:77: instances[1].every: 1 has no unit (did you mean 1s or 1m?)",
        "f:11:54: instances[2].cron: must be text (a number wants quotes)",
        "f:11:68: instances[2].timezone: must be text (a number wants quotes)",
        "f:12:1: unheard: unknown key",
        "f:13:1: unheard: duplicate key, first on line 12",
    ]


def test_a_file_that_is_not_there_is_said_so_plainly(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"

    with pytest.raises(ConfigError) as caught:
        loader.load(file)

    assert str(caught.value) == f"{file}: cannot be read: No such file or directory"


def test_a_file_that_is_no_utf_8_is_refused_with_its_position(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("a: 1\nü: ".encode() + b"\xfc\n")

    with pytest.raises(ConfigError) as caught:
        loader.load(file)

    assert str(caught.value) == f"{file}:2:4: is not UTF-8 text"


def test_rules_between_sections_can_be_asked_of_settings_that_were_built_in_python() -> None:
    eu = config_settings.Cloud(
        endpoint="https://dds.x.eu",
        project_id="p",
        auth=config_settings.TokenAuth(method="token", token=config_settings.Secret(env="X")),
    )
    twins = (config_settings.InstanceEntry(id=A), config_settings.InstanceEntry(id=A))

    built = config_settings.Settings(clouds={"eu": eu}, instances=twins)

    assert list(rules.broken(dict(built))) == [(("instances", 1, "id"), "is the id of instances[0] too")]


REGION = """\
clouds:
  eu:
    region: {region}{more}
    auth: {{method: token, token: {{env: X}}}}
instances:
  - id: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaain02
"""


@pytest.mark.parametrize(
    ("region", "more", "dds", "iam", "hosts"),
    [
        (
            "eu-west-101",
            "",
            "https://dds.eu-west-101.myhuaweicloud.eu",
            "https://iam.eu-west-101.myhuaweicloud.eu",
            ("*.myhuaweicloud.eu",),
        ),
        (
            "eu-de",
            "\n    endpoint: https://dds.example.com:8443/",
            "https://dds.example.com:8443",
            "https://iam.eu-de.otc.t-systems.com",
            ("*.example.com",),
        ),
    ],
)
def test_a_region_fills_in_the_endpoints_and_a_full_address_wins(
    region: str, more: str, dds: str, iam: str, hosts: tuple[str, ...]
) -> None:
    cloud = loader.parse(REGION.format(region=region, more=more), "f").settings.clouds["eu"]

    assert (cloud.dds_endpoint, cloud.identity_endpoint, cloud.allowed_link_hosts) == (dds, iam, hosts)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (top(f"  - id: {'0' * 32}in02"), "instances[1].id"),
        (top(f"  - {{id: {B}, nodes: [{'0' * 32}no02]}}"), "instances[1].nodes[0]"),
        (top("").replace("0483b6b16e954cb88930a360d2c4e663", "" + "0" * 32), "clouds.eu.project_id"),
    ],
)
def test_an_id_of_zeros_is_yet_to_be_filled_in(text: str, place: str) -> None:
    said = f"{place}: is all zeros, and stands for an id: put yours in its place, as the console shows it"
    assert [one.split(": ", 1)[1] for one in complaints_about(text)] == [said]


def test_promtail_is_refused_with_what_takes_its_place() -> None:
    with pytest.raises(ConfigError, match=r"Promtail has reached its end of life: use Grafana Alloy, .* kind: alloy"):
        loader.parse(
            CLOUD + INSTANCES + "storage: {shipper: {kind: promtail, registry: /var/lib/promtail/positions.yaml}}\n",
            "f",
        )


@pytest.mark.parametrize(
    ("web", "warned"),
    [
        ("{listen: '127.0.0.1:9464'}", False),
        ("{listen: '127.8.0.1:9464'}", False),
        ("{listen: 'localhost:9464'}", False),
        ("{listen: '[::1]:9464'}", False),
        ("{enabled: true}", False),
        ("{listen: '0.0.0.0:9464'}", True),
        ("{listen: '[::]:9464'}", True),
        ("{listen: '10.1.2.3:9464'}", True),
        ("{listen: '0.0.0.0:9464', enabled: false}", False),
    ],
)
def test_a_page_beyond_loopback_is_warned_of(web: str, *, warned: bool) -> None:
    """There is no login."""
    loaded = loader.parse(top(f"web: {web}"), "f")

    told = [(one.path, "is not loopback" in one.text) for one in loaded.warnings]
    assert told == ([("web.listen", True)] if warned else [])


@pytest.mark.parametrize(
    ("value", "begins"),
    [
        ("cron: */20 * * * *", "*"),
        ("cron: * * * * *", "*"),
        ("cron: @hourly", "@"),
        ("name: *orders", "*"),
        ("name: `orders`", "`"),
        ("name: %x", "%"),
        ("cron: ? * * * *", "?"),
        ("logs: [error, *slow]", "*"),
    ],
)
def test_a_value_that_yaml_keeps_for_itself_wants_quotes(value: str, begins: str) -> None:
    (complaint,) = complaints_about(entry(value))

    assert complaint.startswith("f:8:")
    assert f"quote it: a value that begins with {begins} is text in quotes only" in complaint


@pytest.mark.parametrize("value", ["name: prod: x", "name: [x", "name: 'x'y", "name: a*", "name: x @y: z"])
def test_other_mistakes_of_yaml_are_not_about_quotes(value: str) -> None:
    assert "quote it" not in " ".join(complaints_about(entry(value)))


@pytest.mark.parametrize("value", ['cron: "*/20 * * * *"', "cron: '0 * * * *'", "cron: 0 6 * * *", 'cron: "@hourly"'])
def test_what_is_quoted_is_a_cron_expression(value: str) -> None:
    assert complaints_about(entry(value)) == []


@pytest.mark.parametrize(
    ("name", "fields"), [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0")]
)
def test_a_name_of_cron_stands_for_its_five_fields(name: str, fields: str) -> None:
    (instance,) = loader.parse(entry(f"cron: '{name}'"), "f").settings.fleet()

    assert instance.schedule == Cron(expression=fields, timezone="UTC")


def test_a_name_that_cron_does_not_have_is_refused() -> None:
    (complaint,) = complaints_about(entry("cron: '@reboot'"))

    assert "must have five fields" in complaint
