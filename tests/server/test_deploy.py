"""Image, compose file, unit and manifest: well-formed, and in agreement with the command that they start."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from nbce_rag.cli.main import app
from nbce_rag.server.limits import Limits
from nbce_rag.server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
UNIT = (DEPLOY / "nbce-rag.service").read_text(encoding="utf-8")
SHUTDOWN_S = ServerSettings().shutdown_timeout


def flags() -> set[str]:
    """Of `nbce-rag serve`."""
    command: Any = get_command(app)
    return {flag for parameter in command.commands["serve"].params for flag in parameter.opts}


def names() -> set[str]:
    """Variables of the environment that `serve` looks at."""
    return {f"NBCE_{field.name.upper()}" for kind in (ServerSettings, Limits) for field in fields(kind)}


def unit() -> dict[str, list[str]]:
    """Lines of its section [Service], by key."""
    lines: dict[str, list[str]] = {}
    for line in UNIT[UNIT.index("[Service]") : UNIT.index("[Install]")].splitlines()[1:]:
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            lines.setdefault(key, []).append(value)
    return lines


def container() -> Any:
    [deployment] = [one for one in KUBERNETES if one["kind"] == "Deployment"]
    [only] = deployment["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize(
    "arguments",
    [
        re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1],  # type: ignore[index]
        str(COMPOSE["services"]["server"]["command"]),
        str(container()["args"]),
        str(unit()["ExecStart"][0].split()[1:]),
    ],
)
def test_the_command_that_is_started_exists(arguments: str) -> None:
    first, *others = yaml.safe_load(arguments)
    assert first == "serve"
    assert {one for one in others if one.startswith("--")} <= flags()


def test_variables_that_are_set_are_looked_at() -> None:
    known = names() | {"NBCE_CACHE"}
    texts = [DOCKERFILE, UNIT, *map(str, container()["env"]), *COMPOSE["services"]["server"]["environment"]]
    used = {name for text in texts for name in re.findall(r"\bNBCE_[A-Z_]+", text)}
    assert used <= known
    assert {"NBCE_INDEXES", "NBCE_KEYS", "NBCE_FILES", "NBCE_SHUTDOWN_TIMEOUT"} <= used


def test_nothing_is_root_and_the_image_has_two_stages() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    assert len(stages) == 3
    user = re.search(r"^USER (\d+):\d+$", stages[2], re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    [deployment] = [one for one in KUBERNETES if one["kind"] == "Deployment"]
    security = deployment["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, int(user[1]))
    assert "DynamicUser=yes" in UNIT
    assert COMPOSE["services"]["server"]["cap_drop"] == ["ALL"]


def test_torch_comes_first_and_for_the_cpu() -> None:
    torch = DOCKERFILE.index("https://download.pytorch.org/whl/cpu torch")
    assert torch < DOCKERFILE.index("'.[local,documents,grammar,server]'")


def test_what_the_image_copies_is_let_through_and_nothing_else() -> None:
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE))
    copied = {name for names in copied for name in names.split()}
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*"
    assert {name[1:] for name in ignore if name.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_who_stops_it_waits_longer_than_answers_may_take() -> None:
    grace = COMPOSE["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > SHUTDOWN_S
    assert int(unit()["TimeoutStopSec"][0]) > SHUTDOWN_S
    [deployment] = [one for one in KUBERNETES if one["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > SHUTDOWN_S


def test_probes_ask_what_they_mean() -> None:
    probes = {
        name: container()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert "/livez" in DOCKERFILE[DOCKERFILE.index("HEALTHCHECK") :]


def test_one_replica_and_one_volume() -> None:
    [deployment] = [one for one in KUBERNETES if one["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    claims = [one["metadata"]["name"] for one in KUBERNETES if one["kind"] == "PersistentVolumeClaim"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert claims == [
        one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one
    ]
    mounted = {one["name"] for one in container()["volumeMounts"]}
    assert mounted == {one["name"] for one in volumes}


def test_keys_are_secrets_and_the_page_in_front_is_a_choice() -> None:
    assert COMPOSE["services"]["server"]["secrets"] == ["keys"]
    assert set(COMPOSE["secrets"]) == {"keys"}
    assert COMPOSE["services"]["openwebui"]["profiles"] == ["openwebui"]
    assert COMPOSE["services"]["openwebui"]["environment"]["TASK_MODEL_EXTERNAL"] == "nbce"
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_unit_is_one_for_notifying() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT)
    assert parser["Service"]["Type"] == "notify"
    assert parser["Service"]["LoadCredential"].startswith("keys:")
    assert "Environment=NBCE_KEYS=%d/keys" in UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "nbce-rag.service"
    unit.write_text(
        re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT, flags=re.MULTILINE), encoding="utf-8"
    )
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
