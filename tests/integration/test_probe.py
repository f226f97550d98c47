"""Tests `sluicectl probe` over HTTP, against the fake upstream's server."""

import json
from pathlib import Path

from click.testing import CliRunner

from devstack.fake_upstream import Klaviyo, Settings
from devstack.fake_upstream.server import serving
from sluicectl import probe
from sluicectl.cli import sluicectl


def test_a_server_is_asked_and_its_manners_are_written_down(tmp_path: Path) -> None:
    klaviyo = Klaviyo({"AbC123": "pk_abc"}, Settings.unlimited())
    manner = {"duplicate_scope": "profile", "nulls": "refuse", "gzipped_bodies": "take"}
    klaviyo.configure(**manner)
    with serving(klaviyo) as url:
        result = CliRunner().invoke(
            sluicectl,
            ["probe", "AbC123", "--base-url", url, "--pause", "0", "--yes", "--write", str(tmp_path)],
            catch_exceptions=False,
            env={probe.KEY_VARIABLE: "pk_abc"},
        )

    assert result.exit_code == 0
    found = json.loads((tmp_path / "settings.json").read_text())
    assert {name: found[name] for name in manner} == manner
