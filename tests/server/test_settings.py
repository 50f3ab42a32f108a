"""What a server may be told: file, environment, flags; and what it refuses to be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nbce_rag.errors import InputError
from nbce_rag.server.key_file import digest_of
from nbce_rag.server.limits import Limits
from nbce_rag.server.setting_layers import read_settings
from nbce_rag.server.settings import ServerSettings, index_name, is_loopback
from nbce_rag.server.wire.errors import ServerError

FILE = """
port = 9000
model = "some/model"
log_content = true
cors_origins = ["https://example.org"]
[indexes]
harbour = "harbour-index"
[options]
max_tokens = 100
style = "long"
[limits]
max_rows = 20
max_running = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_without_a_word_only_this_machine_is_served() -> None:
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.has_keys) == ("127.0.0.1", 8000, False)
    assert not settings.allow_write
    assert settings.cors_origins == ()


def test_a_file_says_what_it_says(file: Path) -> None:
    settings = read_settings(file)
    assert settings.port == 9000
    assert settings.model == "some/model"
    assert settings.indexes == {"harbour": file.parent / "harbour-index"}  # from the file's own folder
    assert settings.options == {"max_tokens": 100, "style": "long"}
    assert settings.limits == Limits(max_rows=20, max_running=2)
    assert settings.log_content
    assert settings.cors_origins == ("https://example.org",)


def test_the_environment_wins_over_the_file_and_flags_over_both(file: Path) -> None:
    environ = {
        "NBCE_PORT": "9001",
        "NBCE_MAX_ROWS": "30",
        "NBCE_OPTIONS": '{"max_tokens": 50}',
        "NBCE_INDEXES": "law=/data/law, /data/Old Maps",
        "NBCE_LOG_CONTENT": "no",
        "NBCE_CACHE": "/somewhere",  # of others
        "NBCE_MODEL": "",
        "PORT": "1",
    }
    settings = read_settings(file, environ, {"port": 9002, "options": {"seed": 3}})
    assert settings.port == 9002
    assert settings.limits == Limits(max_rows=30, max_running=2)
    assert settings.options == {"max_tokens": 50, "style": "long", "seed": 3}
    assert dict(settings.indexes) == {
        "harbour": file.parent / "harbour-index",
        "law": Path("/data/law"),
        "Old-Maps": Path("/data/Old Maps"),
    }
    assert not settings.log_content
    assert settings.model == "some/model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 9000\n", "'prot' is no setting; did you mean 'port'"),
        ("port = 'x'\n", "port: 'x' is no number"),
        ("port = 70000\n", "port=70000"),
        ("port = \n", "are no TOML"),
        ("indexes = 3\n", "must be a table"),
        ("[indexes]\n'a/b' = 'x'\n", "cannot be served as 'a/b'"),
        ("[limits]\nmax_row = 3\n", "'max_row' is no limit"),
        ("[limits]\nmax_rows = 0\n", "max_rows=0"),
        ("[limits]\nmax_rows = 1.5\n", "max_rows=1.5"),
        ("metrics = 'perhaps'\n", "neither true nor false"),
        ("cors_origins = 'https://example.org/page'\n", "is no origin"),
        ("shutdown_timeout = -1\n", "shutdown_timeout=-1"),
        ("allowed_hosts = 3\n", "must be a list"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_settings(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_other_machines_need_keys(host: str) -> None:
    with pytest.raises(InputError, match="nbce-rag key new"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, no_auth=True).host == host
    assert ServerSettings(host=host, api_key="secret").has_keys
    assert ServerSettings(host=host, keys=Path("keys.toml")).has_keys


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_does_not(host: str) -> None:
    assert is_loopback(host)
    assert not ServerSettings(host=host).has_keys


def test_pages_from_anywhere_may_ask_only_with_keys() -> None:
    with pytest.raises(InputError, match="every page that somebody opens"):
        ServerSettings(cors_origins=("*",))
    assert ServerSettings(cors_origins=("*",), api_key="secret").cors_origins == ("*",)


def test_a_key_of_the_environment_is_for_everything_and_not_shown() -> None:
    settings = read_settings(None, {"NBCE_API_KEY": "secret", "NBCE_HOST": "0.0.0.0"})
    assert "secret" not in repr(settings)
    caller = settings.key_file().ring().caller("secret")
    assert (caller.name, caller.indexes, caller.write, caller.admin) == ("api-key", None, True, True)


def test_keys_of_file_and_environment_count_together(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["harbour"]\n', encoding="utf-8")
    ring = ServerSettings(keys=path, api_key="y").key_file().ring()
    assert [ring.caller(key).name for key in "xy"] == ["a", "api-key"]


def test_an_index_without_a_name_is_named_after_its_folder() -> None:
    assert index_name(Path("some/where/my-index")) == "my-index"
    assert index_name(Path("some/where/My Index (2)/")) == "My-Index-2"
    with pytest.raises(InputError, match="write NAME="):
        index_name(Path("/"))


def test_limits_refuse_what_is_over_them() -> None:
    limits = Limits(max_rows=4, max_documents=2, max_document_characters=10)
    limits.check_rows(4)
    limits.check_documents([10, 10])
    refusals: list[tuple[Callable[[], None], str]] = [
        (lambda: limits.check_rows(5), "k"),
        (lambda: limits.check_documents([1, 1, 1]), "documents"),
        (lambda: limits.check_documents([1, 11]), "documents[1]"),
        (lambda: limits.check_text(11, "question"), "question"),
    ]
    for refuse, param in refusals:
        with pytest.raises(ServerError, match="over this server's limit") as caught:
            refuse()
        assert caught.value.status == 400
        assert caught.value.param == param


def test_the_page_names_every_limit_and_only_figures_that_there_are() -> None:
    from dataclasses import fields

    from nbce_rag.server.admission import Admission
    from nbce_rag.server.metrics import Metrics
    from nbce_rag.server.served import Opening
    from nbce_rag.server.state_metrics import state_of

    page = (Path(__file__).parents[2] / "examples" / "docs" / "operation.md").read_text(encoding="utf-8")
    assert {field.name for field in fields(Limits)} <= set(re.findall(r"`(\w+)`", page))
    metrics = Metrics()
    metrics.add(state_of(Admission(Limits()), Opening(ServerSettings())))
    names = {family.name for family in metrics.registry.collect()}
    told = {name.removesuffix("_total") for name in re.findall(r"`(nbce_[a-z_]+)`", page)}
    assert told <= names
    assert told >= names - {"nbce_http_requests_running"}
