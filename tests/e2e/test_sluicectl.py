"""Tests `sluicectl` as it is called, with a stack."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Stack

DOCUMENT = """\
sources:
  own:
    account: AbC123
    secret: own
    signature: {scheme: github}
    events:
      signed-up: {metric: Signed Up, profile: {email: user.email}}
"""


def sluicectl(stack: Stack, folder: Path, *arguments: str, code: int = 0, **changes: str) -> str:
    """Runs a command from any folder, and returns its output; its exit code has to be `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ENDPOINT_URL": stack.aws,
        "AWS_REGION": stack.region,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        **changes,
    }
    command = [str(Path(sys.executable).with_name("sluicectl")), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_sources_document_is_put_shown_and_tried(stack: Stack, tmp_path: Path) -> None:
    s3, bucket = stack.client("s3"), stack.outputs["ConfigBucketName"]
    (tmp_path / "s.yaml").write_text(DOCUMENT)
    (tmp_path / "p.json").write_text('{"user": {"email": "ada@example.com"}}')
    before = s3.get_object(Bucket=bucket, Key="sources.json")["Body"].read()  # other tests post to these

    try:
        dry = json.loads(sluicectl(stack, tmp_path, "sources", "put", "s.yaml", "--dry-run", "--json"))
        first = json.loads(sluicectl(stack, tmp_path, "sources", "put", "s.yaml", "--json", "--yes"))
        second = json.loads(sluicectl(stack, tmp_path, "sources", "put", "s.yaml", "--json"))
        shown = json.loads(sluicectl(stack, tmp_path, "sources", "show", "--json"))
        tried = json.loads(sluicectl(stack, tmp_path, "sources", "try", "own", "p.json", "--json"))
    finally:
        s3.put_object(Bucket=bucket, Key="sources.json", Body=before)

    assert [each["stored"] for each in (dry, first, second)] == [False, True, False]
    assert not second["changed"]
    assert dry["removed"] == ["bigcommerce", "shopify", "stripe", "woocommerce"]
    assert any("the secret" in each and each.startswith("own: ") for each in dry["warnings"])
    assert shown["sources"]["own"]["account"] == "AbC123"
    assert [each["valid"] for each in tried["events"]] == [True]
